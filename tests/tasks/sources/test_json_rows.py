"""JSON in its forms: lines, an array, an object of columns."""

import json

import pytest

from leff.errors import DataError
from leff.tasks.sources.files import read_rows

RECORDS = [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
COLUMNS = {"text": ["a", "b"], "n": [1, 2]}
BY_INDEX = {"text": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}}  # DataFrame.to_json()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS, indent=1),
        "\n " + json.dumps(RECORDS),
        json.dumps(COLUMNS, indent=2),
        json.dumps(BY_INDEX),
        "\n".join(map(json.dumps, RECORDS)),
    ],
)
def test_forms(write, text):
    assert read_rows(write("a.json", text)).columns == COLUMNS


def test_an_array_in_jsonl_and_one_record_in_json(write, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORDS))
    assert read_rows(tmp_path / "a.jsonl").columns == COLUMNS
    assert read_rows(write("b.json", '{"text": "a", "n": 1}')).columns == {"text": ["a"], "n": [1]}


def test_half_a_character_becomes_a_mark_and_is_said(write, caplog):
    path = write("a.json", r'[{"x": "cut \ud83d", "l": ["\ude00"], "o": "\ud83d\ude00"}]')
    assert read_rows(path).columns == {"x": ["cut \ufffd"], "l": [["\ufffd"]], "o": ["😀"]}
    assert "a.json: 1 records have half a character, read as U+FFFD" in caplog.text


def test_names_lose_their_blanks(write, caplog):
    caplog.set_level("INFO")
    path = write("a.json", '[{" x ": "1", "": "2"}]')
    assert read_rows(path).columns == {"x": ["1"]}
    assert "a.json: column 2 has no name and is left out" in caplog.text
    with pytest.raises(DataError, match="several columns are called 'x'; rename one"):
        read_rows(write("b.json", '[{" x ": "1", "x": "2"}]'))


def test_nan_is_a_missing_value(write, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n{"x": NaN}\n')
    with pytest.raises(DataError, match=r"a.jsonl, line 2: no value in column 'x'"):
        read_rows(tmp_path / "a.jsonl").column("x")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '[{"x": 1},\n{"x": 2]', "a.json, line 2: not JSON .*one array of objects"),
        ("a.json", '[{"x": 1}, 5]', "a.json, record 2: must be a JSON object, got 5"),
        ("a.json", '"x"', "a.json, record 1: must be a JSON object"),
        ("a.json", '{"x": 1}\n{"x": \n', "a.json, line 2: not JSON"),
        ("a.ndjson", "x\n", "line 1: not JSON .*write one object a line"),
        ("a.ndjson", '{"x": 1}\n' + '{"x":' * 99_999, "line 2: not JSON .nested too deep"),
        ("a.json", "[" * 99_999, "a.json: not JSON that can be read .nested too deep"),
        ("a.ndjson", '{"x": ' + "9" * 5000 + "}", "line 1: not JSON .*digits"),
    ],
)
def test_what_cannot_be_read(write, name, text, said):
    with pytest.raises(DataError, match=said) as caught:
        read_rows(write(name, text))
    assert len(str(caught.value)) < 400


def test_an_empty_file_has_no_rows(write):
    assert len(read_rows(write("a.json", " \n"))) == 0
