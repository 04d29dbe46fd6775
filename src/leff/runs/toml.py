"""Writes a configuration as TOML with a comment on each option.

print(commented_toml(config))
"""

import json
from typing import Any, cast

from leff.runs.option_types import Section
from leff.runs.options import RunConfig


def commented_toml(config: RunConfig | None = None) -> str:
    """Return all options as commented TOML; the defaults if no `config` is given."""
    config = config or RunConfig()
    lines = ["# Every option of a LEFF run. Keep the lines that you change."]
    for name, field in RunConfig.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            lines += [_option(name, value, field.description)]
            continue
        lines += ["", f"# {(type(value).__doc__ or '').strip()}", f"[{name}]"]
        lines += [
            _option(key, _written(getattr(value, key), option.default), option.description)
            for key, option in type(value).model_fields.items()
        ]
    return "\n".join(lines) + "\n"


def _written(value: Any, default: Any) -> Any:
    """Return the value to write: 'all' for None, if the default is not None."""
    return "all" if value is None and default is not None else value


def _option(key: str, value: Any, description: str | None) -> str:
    text = f"# {key} is not set" if value is None else f"{key} = {_toml(value)}"
    return f"{text:<40} # {description}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, cast("list[Any]", value))) + "]"
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in entries) + "}"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
