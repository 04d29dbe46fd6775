"""CSV and TSV as programs and people write them."""

import csv

import pytest

from leff.errors import DataError
from leff.tasks.sources.files import read_rows

WANTED = {"text": ["a, b; c", 'say "x"'], "label": ["1", "2"]}


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", None)]
)
def test_the_delimiter_is_found_in_the_header(write, caplog, delimiter, name):
    caplog.set_level("INFO")
    lines = [("text", "label"), ('"a, b; c"', "1"), ('"say ""x"""', "2")]
    path = write("a.csv", "\n".join(delimiter.join(line) for line in lines))
    assert read_rows(path).columns == WANTED
    assert ("fields are separated by" in caplog.text) == (name is not None)
    assert name is None or f"a.csv: fields are separated by {name}" in caplog.text


def test_a_delimiter_within_a_quoted_name_does_not_count(write):
    assert list(read_rows(write("a.csv", '"a;b;c",d\n1,2\n')).columns) == ["a;b;c", "d"]


@pytest.mark.parametrize("name", ["a.tsv", "a.txt"])
def test_a_tsv_without_tabs_is_read_as_a_csv(write, name):
    assert read_rows(write(name, 'x;y\n"1;2";b\n')).columns == {"x": ["1;2"], "y": ["b"]}
    assert read_rows(write(name, 'x\n"1, 2"\n')).columns == {"x": ['"1, 2"']}


def test_excels_hint(write):
    rows = read_rows(write("a.csv", "sep=;\r\nx,1;y\r\na;b\r\n"))
    assert rows.columns == {"x,1": ["a"], "y": ["b"]} and rows.where(0).endswith("line 3")


def test_a_long_field_is_read(write):
    before = csv.field_size_limit()
    mail = "hello " * 40_000
    assert read_rows(write("a.csv", f"x,y\n{mail},1\n")).columns["x"] == [mail]
    assert csv.field_size_limit() == before


def test_names_lose_their_blanks_and_a_column_without_name_is_left_out(write, caplog):
    caplog.set_level("INFO")
    rows = read_rows(write("a.csv", ", text , label\n0,a, b\n"))  # as pandas writes its index
    assert rows.columns == {"text": ["a"], "label": [" b"]}
    assert "a.csv, line 1: column 1 has no name and is left out" in caplog.text
    with pytest.raises(DataError, match="several columns are called 'x'"):
        read_rows(write("b.csv", "x, x \n1,2\n"))


@pytest.mark.parametrize("text", ["x,y,\n1,2,\n", "x,y\n1,2,\n", "x,y,,\n1,2\n", "\n\nx,y\n1,2\n"])
def test_delimiters_at_the_end_and_blank_lines_before_the_header(write, text):
    assert read_rows(write("a.csv", text)).columns == {"x": ["1"], "y": ["2"]}


def test_more_fields_than_columns_are_refused_in_a_tsv_too(write):
    for name, text in (("a.csv", "x,y\n1,2,3\n"), ("a.tsv", "x\ty\n1\t2\t3\n")):
        with pytest.raises(DataError, match="line 2: 3 fields, but the columns are 2: x, y"):
            read_rows(write(name, text))


def test_rows_without_any_value_are_left_out(write, caplog):
    caplog.set_level("INFO")
    rows = read_rows(write("a.csv", "x,y\n,\n1,2\n , \n\n"))
    assert rows.columns == {"x": ["1"], "y": ["2"]} and rows.where(0).endswith("line 3")
    assert "a.csv: 2 rows have no value at all and are left out" in caplog.text


def test_quotes_count_in_a_tsv_whose_header_has_them(write):
    plain = read_rows(write("a.tsv", 'x\ty\n"a\tb"c\n'))
    assert plain.columns == {"x": ['"a'], "y": ['b"c']}
    quoted = read_rows(write("b.tsv", '"x"\t"y"\n"a\tb"\t"c\nd"\n'))
    assert quoted.columns == {"x": ["a\tb"], "y": ["c\nd"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('x,y\n"a "b" c",1\n', "line 2: .*a quote within a quoted field is written twice"),
        ("x,y\na\rb,1\n", "line 2: .*a CR within the line"),
        ("\n\n", "has no header line"),
        (",,\n1,2,3\n", "has no header line"),
    ],
)
def test_what_cannot_be_read(write, text, said):
    with pytest.raises(DataError, match=said):
        read_rows(write("a.csv", text))
