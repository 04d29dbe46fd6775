"""WebNLG as Parquet, XML, JSON and from the hub: the same task each time."""

import json

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task

TRIPLES = [["A_b | leader | C"], ["A_b | leader | C", "C | age | 5"]]
TEXTS = [[("good", "C leads A b."), ("bad", "Eh.")], [("good", "C, 5, leads A b.")]]
XML = """<benchmark><entries>
<entry category="Airport" eid="Id1" size="1"><originaltripleset><otriple>x</otriple>
</originaltripleset><modifiedtripleset><mtriple>A_b | leader | C</mtriple></modifiedtripleset>
<lex comment="good" lid="Id1">C leads A b.</lex><lex comment="bad" lid="Id2">Eh.</lex></entry>
<entry category="Food" eid="Id1" size="2"><modifiedtripleset><mtriple>A_b | leader | C</mtriple>
<mtriple>C | age | 5</mtriple></modifiedtripleset>
<lex comment="good" lid="Id1"><text>C, 5, leads A b.</text></lex></entry>
<entry category="Food" eid="Id2" size="1"><modifiedtripleset><mtriple>No | text | here</mtriple>
</modifiedtripleset></entry></entries></benchmark>"""
CATEGORIES = ["Airport", "Food"]


def as_json():
    entries = [
        {
            str(i): {
                "category": CATEGORIES[i],
                "size": str(len(triples)),
                "modifiedtripleset": [
                    dict(zip(("subject", "property", "object"), t.split(" | "), strict=True))
                    for t in triples
                ],
                "lexicalisations": [{"comment": c, "lex": t} for c, t in TEXTS[i]],
            }
        }
        for i, triples in enumerate(TRIPLES)
    ]
    return json.dumps({"entries": entries})


def as_columns():
    rows = [
        (CATEGORIES[i], len(TRIPLES[i]), comment, TRIPLES[i], text)
        for i in range(2)
        for comment, text in TEXTS[i]
    ]
    names = ("category", "size", "comment", "triples", "text")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def check(task):
    assert task.kind == "generation"
    assert task.train[:] == {
        "input": ["A_b | leader | C", "A_b | leader | C && C | age | 5"],
        "target": ["C leads A b.", "C, 5, leads A b."],
        "category": CATEGORIES,
        "size": [1, 2],
    }
    assert task.validation["references"][:] == [["C leads A b."], ["C, 5, leads A b."]]
    assert task.test["references"][:] == [["C leads A b.", "Eh."], ["C, 5, leads A b."]]


def test_parquet(write, tmp_path):
    for split in ("train", "dev", "test"):
        write(f"webnlg2017/{split}.parquet", as_columns())
    check(load_task("webnlg", tmp_path))


def test_xml_release_whose_test_repeats_entries(write, tmp_path):
    for path in ("train/1triples/a.xml", "dev/1triples/a.xml", "test/with_lex.xml"):
        write(path, XML)
    write("test/unseen_with_lex.xml", XML)
    check(load_task("webnlg", tmp_path))


def test_json(write, tmp_path):
    for split in ("train", "dev", "test"):
        write(f"webnlg_challenge_2017/{split}.json", as_json())
    check(load_task("webnlg", tmp_path))


def test_hub(hub):
    lex = [{"comment": [c for c, _ in t], "text": [x for _, x in t]} for t in TEXTS]
    columns = {
        "category": CATEGORIES,
        "size": [1, 2],
        "modified_triple_sets": [{"mtriple_set": [t]} for t in TRIPLES],
        "lex": lex,
    }
    calls = hub(dict.fromkeys(("train", "dev", "test"), columns))
    check(load_task("webnlg"))
    assert calls[0][0] == ("webnlg-challenge/web_nlg", "webnlg_challenge_2017")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train/a.xml", XML[:-20], r"a.xml: not readable XML"),
        ("train.json", '{"entries": [{"1": {}}]}', r"train.json, entry 1: not the WebNLG JSON"),
    ],
)
def test_unreadable(write, tmp_path, name, content, said):
    write(name, content)
    write("dev.json", as_json())
    with pytest.raises(DataError, match=said):
        load_task("webnlg", tmp_path)
