"""WebNLG 2017 (Gardent et al. 2017): texts from sets of triples.

    python -c "from leff.tasks.load import load_task; print(load_task('webnlg', 'data').train[0])"

An input is its triples, ``subject | property | object``, joined by `` && ``.  Training and
validation keep only texts with the comment ``good``, as the LoRA experiments on this set do.  The
test keeps all texts.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from leff.errors import DataError
from leff.tasks.columns import Table
from leff.tasks.sources.files import locate, read_rows
from leff.tasks.sources.rows import Rows
from leff.tasks.task import Task, group_references

FILES = {
    "train": ("train.parquet", "train.json", "train"),
    "validation": ("dev.parquet", "dev.json", "dev"),
    "test": ("test.parquet", "test.json", "test"),
}
HUB = ("webnlg-challenge/web_nlg", "webnlg_challenge_2017")
ATTRIBUTES = ("category", "size")

# category, size, triples, (comment, text)
Entry = tuple[str, int, list[str], list[tuple[str, str]]]


def load(name: str, folder: Path | None = None) -> Task:
    """Load WebNLG from a folder (Parquet copy, or the release's XML or JSON) or from the hub."""
    inside = ("webnlg2017", "webnlg_challenge_2017", "webnlg", ".")
    files = locate(name, folder, inside, FILES)
    rows = {s: _read(path) for s, path in files.items()} if files else _from_hub()
    inputs: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for split, part in rows.items():
        if split != "test":
            part = part.select([comment == "good" for comment in part.column("comment")])
        rows[split] = part
        inputs[split] = [linearise(triples) for triples in part.column("triples")]
        texts[split] = part.text("text")
    attributes = {column: rows["train"].column(column) for column in ATTRIBUTES}
    return Task(
        name,
        "generation",
        Table({"input": inputs["train"], "target": texts["train"], **attributes}),
        group_references(inputs["validation"], texts["validation"]),
        group_references(inputs["test"], texts["test"]) if "test" in rows else None,
        attributes=ATTRIBUTES,
    )


def linearise(triples: list[str]) -> str:
    """Return the input text of a list of ``subject | property | object``."""
    return " && ".join(triples)


def _read(path: Path) -> Rows:
    if path.is_dir():
        return _as_rows(path, _xml_entries(path))
    if path.suffix == ".json":
        return _as_rows(path, _json_entries(path))
    return read_rows(path)


def _as_rows(path: Path | str, entries: Iterator[Entry]) -> Rows:
    """Return one row per text; entries that the release repeats in its test count once."""
    rows: dict[tuple[object, ...], tuple[object, ...]] = {}
    for category, size, triples, texts in entries:
        for number, (comment, text) in enumerate(texts):
            key = (category, *triples, number, text)
            rows.setdefault(key, (category, size, triples, comment, text))
    names = ("category", "size", "triples", "comment", "text")
    columns = {name: [row[i] for row in rows.values()] for i, name in enumerate(names)}
    return Rows(path, columns, range(1, len(rows) + 1), unit="text")


def _xml_entries(folder: Path) -> Iterator[Entry]:
    """Yield the release's XML: folders by number of triples, with a file for each category.

    A ``lex`` holds its text itself, or in the enriched release in its ``text`` child.
    """
    for path in sorted(folder.rglob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except (ElementTree.ParseError, OSError) as error:
            raise DataError(f"{path}: not readable XML ({error})") from error
        for entry in root.iter("entry"):
            triples = [(t.text or "").strip() for t in entry.iterfind("modifiedtripleset/mtriple")]
            texts = [
                (lex.get("comment", ""), (lex.findtext("text") or lex.text or "").strip())
                for lex in entry.iterfind("lex")
            ]
            yield entry.get("category", ""), len(triples), triples, [t for t in texts if t[1]]


def _json_entries(path: Path) -> Iterator[Entry]:
    """Yield the release's JSON: ``{"entries": [{"1": {...}}, ...]}``."""
    number = 0
    try:
        for item in json.loads(path.read_text(encoding="utf-8"))["entries"]:
            number += 1
            ((_, entry),) = item.items()
            triples = [
                f"{t['subject']} | {t['property']} | {t['object']}"
                for t in entry["modifiedtripleset"]
            ]
            texts = [(lex["comment"], lex["lex"]) for lex in entry["lexicalisations"]]
            yield entry["category"], len(triples), triples, texts
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path}, entry {number}: not the WebNLG JSON ({error!r})") from error


def _from_hub() -> dict[str, Rows]:
    from leff.tasks.sources.hub import fetch

    def entries(split: Any) -> Iterator[Entry]:
        for row in split:
            triples = row["modified_triple_sets"]["mtriple_set"][0]
            lex = row["lex"]
            texts = list(zip(lex["comment"], lex["text"], strict=True))
            yield row["category"], row["size"], triples, texts

    splits = fetch(*HUB)
    ours = {"train": "train", "validation": "dev", "test": "test"}
    try:
        return {s: _as_rows(f"{HUB[0]}/{h}", entries(splits[h])) for s, h in ours.items()}
    except KeyError as error:
        raise DataError(f"{HUB[0]} lacks the split or column {error}") from error
