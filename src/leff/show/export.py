"""The page as one HTML file, which needs no server and names no outside address.

write_page(Pages(Sources([Path("runs/a")])), Path("a.html"))
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.files import finite, write_atomically
from leff.show.pages import Pages
from leff.show.script import STATIC, script

MOST_JOBS = 20_000  # whose part in a round an export holds: about 4 MB
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


def write_page(pages: Pages, path: Path) -> int:
    """Write the page of all that is shown, as it is now; return the bytes.

    Raises ConfigError if there is nothing to show or the file cannot be written.
    """
    payload = page_text(pages).encode()
    try:
        write_atomically(path, payload)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}); see --export") from None
    return len(payload)


def page_text(pages: Pages) -> str:
    """Return the HTML of `write_page`."""
    values = json.dumps(finite(_values(pages)), separators=(",", ":"), allow_nan=False)
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    html = html.replace(
        '<link rel="stylesheet" href="static/style.css">', f"<style>\n{style}</style>"
    )
    data = f'<script id="data" type="application/json">{_inside_script(values)}</script>'
    code = f"<script>\n{script()}</script>"
    html = html.replace('<script defer src="page.js"></script>\n', "")
    html = html.replace("</body>", f"{data}{code}\n</body>")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    return html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{policy}')


def _values(pages: Pages) -> dict[str, Any]:
    """Return the values of every page by address, as the script asks for them."""
    index = pages.index()
    if not index["runs"] and not index["plans"]:
        raise ConfigError("there is no run to export")
    found: dict[str, Any] = {"index": index}
    for name in (row["name"] for row in index["runs"]):
        found[f"run?name={name}"] = pages.run(name)
        found[f"curve?name={name}"] = pages.curve(name)
    for name in index["plans"]:
        found[f"plan?name={name}"] = pages.plan(name)
    return {**found, **_rounds(pages, found)}


def _rounds(pages: Pages, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return who did what in every k-th round; k is 1 unless that were more than `MOST_JOBS`."""
    runs = {view["name"]: view for key, view in found.items() if key.startswith("run?")}
    jobs = sum(each["clients"] for view in runs.values() for each in view["rounds"])
    every = max(1, -(-jobs // MOST_JOBS))
    return {
        f"round?name={name}&round={each['round']}": pages.round(name, each["round"])
        for name, view in runs.items()
        for each in view["rounds"][::every]
    }


def _inside_script(text: str) -> str:
    """Return JSON that cannot end the script around it, whatever texts it holds."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
