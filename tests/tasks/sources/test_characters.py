"""Text files as people save them: encodings, line ends, gzip, and rows without end."""

import gzip
import tracemalloc

import pytest

from leff.errors import DataError
from leff.tasks.sources.files import read_lines, read_rows

LETTERS = "text,label\nCafé – “süß”,a\nžena 😀,b\n"


@pytest.fixture
def save(tmp_path):
    def _save(name, content: bytes):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return _save


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("packed", [False, True])
def test_unicode_encodings(save, encoding, packed):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    content = (mark + LETTERS).encode(encoding)
    path = save("a.csv.gz", gzip.compress(content)) if packed else save("a.csv", content)
    assert read_rows(path).columns == {"text": ["Café – “süß”", "žena 😀"], "label": ["a", "b"]}


@pytest.mark.parametrize("before", ["", "y" * 3_000_000 + "\n"])  # longer than a piece
def test_windows_1252_is_read_and_said(save, caplog, before):
    path = save("a.txt", (before + "plain\nCafé – “süß”\n").encode("cp1252"))
    assert read_lines(path)[0][-2:] == ["plain", "Café – “süß”"]
    line = 3 if before else 2
    assert f"a.txt, line {line}: not UTF-8; the file is read as Windows-1252" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("é\nx\n".encode() + b"\xff\n", r"a.txt, line 3: not UTF-8 .*; mend the line, or save"),
        (b"x\n\x81\n", r"a.txt, line 2: neither UTF-8 nor Windows-1252; save"),
        (b"x\ny\0\n", r"a.txt, line 2: a NUL character"),
        ("x\ny\n".encode("utf-16-le"), r"a.txt, line 1: a NUL character"),
        ("x\ny\n".encode("utf-16")[:-1], r"a.txt, line 2: not UTF-16"),
        (b"PK\x03\x04....", "is a zip archive or an Excel workbook"),
        (b"PAR1....", "is a Parquet file; give its name the ending"),
        (gzip.compress(b"good\n" * 9, mtime=0)[:-9], r"a.txt: cannot be read .*damaged or cut off"),
        (
            gzip.compress(bytes(range(97, 122)) * 999, mtime=0)[:40] + b"junk" * 9,
            r"a.txt: cannot be read",
        ),
    ],
)
def test_what_is_no_text(save, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read_lines(save("a.txt", content))
    assert "\n" not in str(caught.value)


def test_gzip_is_known_by_its_content(save):
    assert read_lines(save("a.txt", gzip.compress(b"x\n")))[0] == ["x"]
    with pytest.raises(DataError, match=r"a.txt.gz is not gzipped; give its name another ending"):
        read_lines(save("a.txt.gz", b"x\n"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(save, end):
    path = save("a.csv", f'x,y{end}1,"a{end}b"{end}2,c{end}'.encode())
    assert read_rows(path).columns == {"x": ["1", "2"], "y": [f"a{end}b", "c"]}
    assert read_rows(path).where(1).endswith("line 4")
    assert read_lines(save("a.txt", f"a b{end}{end}c\u2028d\x0be".encode()))[0] == [
        "a b",
        "c\u2028d\x0be",
    ]


@pytest.mark.parametrize(
    ("name", "start"), [("a.jsonl", b'{"x": "'), ("a.csv", b'x\n"'), ("a.tsv", b"x\n"),
                        ("a.txt", b""), ("a.json", b'[{"x": "')],
)  # fmt: skip
def test_a_row_without_end_is_refused_before_it_fills_the_memory(save, name, start, monkeypatch):
    monkeypatch.setattr("leff.tasks.sources.characters.ROW_CHARACTERS", 4_000_000)
    monkeypatch.setattr("leff.tasks.sources.json_rows.FILE_CHARACTERS", 4_000_000, raising=False)
    part = gzip.compress(b"a" * 1_000_000, compresslevel=1)
    path = save(f"{name}.gz", gzip.compress(start) + part * 3000)  # 3 GB from 13 MB
    tracemalloc.start()
    with pytest.raises(DataError, match=r"more than 4,000,000 characters") as caught:
        read_lines(path) if name == "a.txt" else read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert name in str(caught.value) and peak < 40_000_000


def test_a_row_of_many_quoted_lines_has_a_limit_too(save, monkeypatch):
    monkeypatch.setattr("leff.tasks.sources.characters.ROW_CHARACTERS", 1000)
    path = save("a.csv", b'x,y\n1,2\n"' + b"line\n" * 999 + b'",2\n')
    with pytest.raises(DataError, match=r"a.csv, line 3: a row of more than 1,000 characters"):
        read_rows(path)
