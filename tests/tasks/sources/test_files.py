"""Reading rows: every complaint names the file and the line."""

import gzip

import pytest

from leff.errors import DataError
from leff.tasks.sources.files import read_lines, read_rows, read_tsv


def test_lines_of_a_csv_with_a_quoted_line_break(write):
    rows = read_rows(write("a.csv", 'x,y\n1,"two\nlines"\n2,b\n'))
    assert rows.columns == {"x": ["1", "2"], "y": ["two\nlines", "b"]}
    assert rows.where(1).endswith("a.csv, line 4")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "x,y\n1,2\n3\n", r"a.csv, line 3: 1 fields, but the columns are 2: x, y"),
        ("a.csv", 'x,y\n1,2\n3,"4\n', r"a.csv, line 3: cannot be read"),
        ("a.csv", "", "has no header"),
        ("a.tsv", "x\ty\n1\t2\n3\n", r"a.tsv, line 3: 1 fields"),
        ("a.tsv", "", "is empty"),
        ("a.xlsx", "", "cannot read .xlsx"),
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


def test_bytes_that_are_not_utf8_or_not_gzip(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n\xff\xfe bad\n")
    with pytest.raises(DataError, match=r"a.txt, line \d: cannot be read"):
        read_lines(path)
    path = tmp_path / "b.txt.gz"
    path.write_bytes(gzip.compress(b"good\n" * 9)[:-9])
    with pytest.raises(DataError, match=r"b.txt.gz, line \d+: cannot be read"):
        read_lines(path)


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
