"""Build the site of `docs/` without a warning, and check it: `make docs`.

    python scripts/build_docs.py --out build/docs

The pages are those of `docs/`.  What the code knows is added to them here: commands, options and
their JSON schema, and the Python API.  All links and anchors have to lead somewhere.  Nothing may
be loaded from outside, so that the site can be read without a network.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import typer.cli
from typer.main import get_command

import leff
from leff.cli import app
from leff.runs.schema import schema

ROOT = Path(__file__).parents[1]
API = {  # beside what `leff` exports
    "Methods": ["leff.methods.registry", "leff.methods.method"],
    "A round and its record": ["leff.round.run_round", "leff.record"],
    "Errors": ["leff.errors"],
}
# What the theme would fetch for diagrams, editors and repositories, of which we have none.
FETCHED = re.compile(r"https://(unpkg\.com|cdn\.jsdelivr\.net|api\.github\.com)\b")
ELSEWHERE = (
    "The site has the rest of this page: `make docs`."  # in its place comes what the code knows
)
NAMED = ("www.w3.org", "fontawesome.com")  # names of XML dialects, and of a licence
ADDRESS = re.compile(r"https?://([\w.-]+)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="a folder")
    out = parser.parse_args().out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    write_pages(out / "pages")
    shutil.copy(ROOT / "docs" / "zensical.toml", out)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    if subprocess.run(command, cwd=out).returncode:
        return 1
    for script in (out / "site").rglob("*.js"):
        script.write_text(FETCHED.sub("", script.read_text("utf-8")), "utf-8")
    found = list(problems(out / "site"))
    print("\n".join(found) or f"all links lead somewhere; read {out / 'site' / 'index.html'}")
    return bool(found)


def write_pages(pages: Path) -> None:
    """Write the documents, the files beside `docs/` that they show, and what the code knows."""
    docs = ROOT / "docs"
    for path in filter(Path.is_file, docs.rglob("*")):
        (pages / path.relative_to(docs)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pages / path.relative_to(docs))
    (pages / "package.md").unlink()  # the package index's
    for page in sorted(pages.rglob("*.md")):
        up = "../" * len(page.relative_to(pages).parents)

        def inside(link: re.Match[str], up: str = up) -> str:
            copy = pages / link[1]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / link[1], copy)
            return f"]({up[3:]}{link[1]}"

        text = re.sub(rf"\]\({re.escape(up)}([\w./-]+)", inside, page.read_text())
        page.write_text(re.sub(r"^\|.*`.*", bare_bars, text, flags=re.MULTILINE))
    for name, text in {"commands": commands(), "options": options(), "python": api()}.items():
        page = pages / "look-up" / f"{name}.md"
        page.write_text(page.read_text().replace(f"{ELSEWHERE}\n", text))
    (pages / "look-up" / "options.schema.json").write_text(json.dumps(schema(), indent=1))


def bare_bars(row: re.Match[str]) -> str:
    """Return a table's row whose code has bars without a backslash, which GitHub needs."""
    return re.sub(r"`[^`]*`", lambda code: code[0].replace(r"\|", "|"), row[0])


def commands() -> str:
    """Return every command with its arguments and options, as typer documents them."""
    command = get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=click.Context(command), name="leff")
    return text[text.index("## ") :]  # without what the page says itself


def options() -> str:
    """Return a table of options a section, from their schema."""
    known = schema()
    whole, lines = known["$defs"], list[str]()
    for name, option in known["properties"].items():
        if "$ref" in option:
            section = whole[option["$ref"].rpartition("/")[2]]
            lines += [f"\n## {name}\n", section["description"], *table(section["properties"])]
    own = {name: option for name, option in known["properties"].items() if "$ref" not in option}
    return "\n".join(["## Without a section", *table(own), *lines, ""])


def table(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of a table of options."""
    yield "\n| Option | Values | Default | Meaning |\n|---|---|---|---|"
    for name, option in options.items():
        default = option.get("default")
        default = "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
        cells = (f"`{name}`", values(option), default, option["description"])
        yield (
            "| "
            + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells)
            + " |"
        )


def values(option: Mapping[str, Any]) -> str:
    """Return in words what values an option may have."""
    if "anyOf" in option:
        kinds = (values(each) for each in option["anyOf"] if each.get("type") != "null")
        return " or ".join(dict.fromkeys(kinds))
    if "const" in option or "enum" in option:
        return ", ".join(f"`{each}`" for each in option.get("enum", [option.get("const")]))
    bounds = {"exclusiveMinimum": "above", "minimum": "from", "maximum": "to"}
    words = [f"{word} {option[key]:,g}" for key, word in bounds.items() if key in option]
    kind = {
        "array": f"list of: {values(option['items'])}" if "items" in option else "list",
        "boolean": "`true`, `false`",
        "integer": "whole number",
        "object": "table",
        "string": "path" if option.get("format") == "path" else "text",
    }.get(option["type"], option["type"])
    return " ".join([kind, *words])


def api() -> str:
    """Return the directives by which mkdocstrings documents the Python API."""
    named = {"What `leff` exports": [f"leff.{name}" for name in leff.__all__], **API}
    return "\n".join(
        f"## {title}\n\n" + "\n".join(f"::: {name}\n" for name in names)
        for title, names in named.items()
    )


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag != "a":
            self.loaded += [given[key] for key in ("src", "href", "data") if given.get(key)]


def problems(site: Path) -> Iterator[str]:
    """Yield what is wrong with a site: a link or an anchor to nothing, an address outside."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    yield f"{path.relative_to(site)} loads {target}"
                continue
            root = site if parts.path.startswith("/") else path.parent  # 404.html is read anywhere
            file = (root / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            anchors = pages[file].anchors if file in pages else {unquote(parts.fragment)}
            if not file.exists() or unquote(parts.fragment) not in anchors:
                yield f"{path.relative_to(site)} links to {target}"
    for path in sorted(each for each in site.rglob("*") if each.suffix in (".css", ".js")):
        for host in sorted(set(ADDRESS.findall(path.read_text("utf-8"))) - set(NAMED)):
            yield f"{path.relative_to(site)} names {host}"


if __name__ == "__main__":
    sys.exit(main())
