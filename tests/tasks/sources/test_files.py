"""Reading rows: every complaint names the file and the line."""

import pytest

from leff.errors import DataError
from leff.tasks.sources.files import read_rows, read_tsv


def test_lines_of_a_csv_with_a_quoted_line_break(write):
    rows = read_rows(write("a.csv", 'x,y\n1,"two\nlines"\n2,b\n'))
    assert rows.columns == {"x": ["1", "2"], "y": ["two\nlines", "b"]}
    assert rows.where(1).endswith("a.csv, line 4")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "x,y\n1,2\n3\n", r"a.csv, line 3: 1 fields, but the columns are 2: x, y"),
        (
            "a.csv",
            'x,y\n1,2\n3,"4\n',
            r"a.csv, line 3: .*a quote that is opened here is never closed",
        ),
        ("a.csv", "", "has no header"),
        ("a.tsv", "x\ty\n1\t2\n3\n", r"a.tsv, line 3: 1 fields"),
        ("a.tsv", "", "has no header"),
        ("a.xlsx", "", "cannot read .xlsx workbooks; save the sheet as CSV"),
        ("a.gz", "x", "cannot read a file without ending"),
        ("a.CSV.zip", "x", "cannot read .zip; use .parquet, .jsonl"),
    ],
)
def test_unreadable(write, name, content, said):
    with pytest.raises(DataError, match=said):
        read_rows(write(name, content))


@pytest.mark.parametrize(
    ("line", "said"), [('{"x": 1', "line 2: not JSON"), ("[1]", "line 2: must be a JSON object")]
)
def test_unreadable_json_line(write, line, said):
    path = write("a.txt", f'{{"x": 1}}\n{line}\n').rename(write("b.jsonl", []))
    with pytest.raises(DataError, match=said):
        read_rows(path)


def test_half_a_parquet_file(write):
    path = write("a.parquet", {"x": [1, 2]})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a.parquet: not a readable Parquet file"):
        read_rows(path)


def test_missing_file_and_missing_value(write, tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none.csv"):
        read_rows(tmp_path / "none.csv")
    rows = read_rows(write("a.jsonl", [{"x": "a"}, {"y": "b"}]))
    with pytest.raises(DataError, match=r"a.jsonl, line 2: no value in column 'x'"):
        rows.column("x")


def test_missing_column_names_the_nearest_and_those_present(write):
    rows = read_rows(write("a.csv", "sentense,label\na,1\n"))
    with pytest.raises(DataError) as caught:
        rows.column("sentence")
    for part in ("a.csv", "'sentence'", "columns: sentense, label", "did you mean 'sentense'"):
        assert part in str(caught.value)


def test_text_must_be_text(write):
    rows = read_rows(write("a.jsonl", [{"x": "a"}, {"x": 5}]))
    with pytest.raises(DataError, match=r"line 2: 'x' must be text, got 5"):
        rows.text("x")


def test_tsv_leaves_quotes_alone_and_skips_a_byte_order_mark(write):
    rows = read_tsv(write("a.tsv", '\ufeffx\ty\n"a\tb"c\textra\r\n'))
    assert rows.columns == {"x": ['"a'], "y": ['b"c']}


@pytest.mark.parametrize("name", ["a.csv", "b.CSV", "c.JSONL", "d.ndjson", "e.Json"])
def test_endings_in_any_case_and_their_kin(write, tmp_path, name):
    path = tmp_path / name
    path.write_text("x\n1\n" if "csv" in name.lower() else '{"x": "1"}\n')
    assert read_rows(path).columns == {"x": ["1"]}


def test_a_folder_and_a_file_that_may_not_be_read(write, tmp_path, monkeypatch):
    (tmp_path / "sites.csv").mkdir()
    with pytest.raises(DataError, match=r"sites.csv is a folder; name a file, or a pattern"):
        read_rows(tmp_path / "sites.csv")
    path = write("a.csv", "x\n1\n")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(DataError, match=r"a.csv: cannot be read \(Permission denied\)"):
        read_rows(path)


def test_a_name_that_no_file_can_have(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read|there is no file"):
        read_rows(tmp_path / ("x" * 5000 + ".csv"))
