"""The page's script: the modules of `static/` as one text, for the server and for an export.

One request in place of fifteen: over a tunnel each costs a way there and back.
"""

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).with_name("static")
MODULES = (  # each after those that it imports
    *("dom", "format", "colours", "source", "download", "table", "chart", "layers"),
    *("texts", "run", "runs", "plan", "main"),
)
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)


@cache
def script() -> str:
    """Return all modules as one script: each a function of its own, which returns its exports."""
    return '"use strict";\nconst modules = {};\n' + "".join(map(_module, MODULES))


def _module(name: str) -> str:
    text = (STATIC / f"{name}.js").read_text(encoding="utf-8")
    exports = ", ".join(own for _, own in _EXPORT.findall(text))
    text = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = modules.\2;", text))
    return f"modules.{name} = (() => {{\n{text}return {{ {exports} }};\n}})();\n"
