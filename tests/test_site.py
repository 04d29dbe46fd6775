"""The site of the documents, its check of links, and the drawing of a round."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def script():
    """What `scripts/build_docs.py` defines."""
    return runpy.run_path(str(ROOT / "scripts" / "build_docs.py"))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_outside(tmp_path, script):
    command = [sys.executable, ROOT / "scripts" / "build_docs.py", "--out", tmp_path / "made"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "No issues found\n"
    site = tmp_path / "made" / "site"
    assert list(script["problems"](site)) == []
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / name).exists() == (name.name != "package.html"), name
    read = {path.stem: path.read_text() for path in (site / "look-up").glob("*.html")}
    assert "leff server admit" in read["commands"]
    assert "importance_batches" in read["options"] and "whole number" in read["options"]
    assert 'id="leff.run"' in read["python"] and 'id="leff.errors.LeffError"' in read["python"]
    assert (site / "look-up" / "options.schema.json").exists()
    assert not any(script["ELSEWHERE"].partition(":")[0] in text for text in read.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<a href="b.html#there">', None),
        ('<a href="https://example.org"><img src="data:image/png;base64,AAAA">', None),
        ('<a href="c.html">', "links to c.html"),
        ('<a href="b.html#here">', "links to b.html#here"),
        ('<img src="c.png">', "links to c.png"),
        ('<link rel="stylesheet" href="https://example.org/a.css">', "loads https://example.org"),
        ('<script src="//example.org/a.js">', "loads //example.org/a.js"),
    ],
)
def test_a_link_to_nothing_and_what_is_loaded_from_outside_are_found(
    text, problem, tmp_path, script
):
    (tmp_path / "a.html").write_text(text)
    (tmp_path / "b.html").write_text('<h2 id="there">')
    found = list(script["problems"](tmp_path))
    assert [problem in each for each in found] == ([True] if problem else [])


def test_an_address_in_a_style_or_a_program_is_found(tmp_path, script):
    (tmp_path / "a.css").write_text("@import 'https://fonts.example.org/a'")
    (tmp_path / "a.js").write_text("'http://www.w3.org/2000/svg'")
    assert list(script["problems"](tmp_path)) == ["a.css names fonts.example.org"]


def test_code_in_a_table_loses_the_backslash_of_its_bars(tmp_path, script):
    script["write_pages"](tmp_path)
    text = (tmp_path / "do" / "classify.md").read_text()
    assert "`a|b`" in text and r"\|" in (ROOT / "docs" / "do" / "classify.md").read_text()


def test_pages_bring_what_they_link_to_beside_the_documents(tmp_path, script):
    script["write_pages"](tmp_path)
    assert "](../src/leff/round.py)" in (tmp_path / "understand" / "round.md").read_text()
    assert (tmp_path / "src" / "leff" / "round.py").exists()
    assert "](results/figure4-mini.png)" in (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "results" / "figure4-mini.png").exists()


def test_the_drawing_of_a_round_is_what_its_script_gives():
    script = runpy.run_path(str(ROOT / "scripts" / "draw_round.py"))
    drawn = script["picture"]()
    assert drawn == (ROOT / "docs" / "one-round.svg").read_text(), "run scripts/draw_round.py"
    root = ElementTree.fromstring(drawn)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert all(f"{number}. " in description.text for number in range(1, 6))
    assert "prefers-color-scheme: dark" in drawn and "://" not in drawn.replace(SVG[1:-1], "")
