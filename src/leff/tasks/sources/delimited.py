"""Reads CSV, TSV and their kin: the delimiter is found in the header line.

read_delimited(Path("people.csv")).columns      # also with semicolons, tabs or bars
"""

import csv
import logging
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from leff.errors import DataError
from leff.tasks.sources import characters
from leff.tasks.sources.characters import check_row, lines_of
from leff.tasks.sources.rows import Rows, column_names, listed

log = logging.getLogger("leff.tasks.load")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
QUOTED = re.compile(r'"[^"]*"')
Record = tuple[int, list[str]]  # the line that a record begins in, and its fields


def read_delimited(path: Path, tabs: bool = False) -> Rows:
    """Read a file with a header line.

    The delimiter is the most frequent of `DELIMITERS` in the header line, or what a first line such
    as ``sep=;`` says.  With `tabs` it is the tab if the header has one, and quotes are ordinary
    characters unless the header begins with one.
    Names of columns lose outer blanks.  Columns without a name are left out, and so are rows
    without any value; both are logged.  Raises DataError with the line.
    """
    records, quiet = _records(path, tabs), 0
    line, header = next(records, (1, list[str]()))
    while header and not header[-1].strip():  # the line ends with a delimiter
        header.pop()
    if not header:
        raise DataError(f"{path} has no header line; it is empty, or its first line is")
    header = column_names(f"{path}, line {line}", header)
    rows, lines = list[list[str]](), list[int]()
    for line, row in records:
        if not any(field.strip() for field in row):
            quiet += bool(row)
            continue
        if len(row) < len(header) or any(field.strip() for field in row[len(header) :]):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields, but the columns are {len(header)}: "
                f"{listed(header)}"
            )
        rows.append(row)
        lines.append(line)
    if quiet:
        log.info("%s: %d rows have no value at all and are left out", path, quiet)
    named = {name: i for i, name in enumerate(header) if name}
    return Rows(path, {name: [row[i] for row in rows] for name, i in named.items()}, lines)


def _records(path: Path, tabs: bool) -> Iterator[Record]:
    """Yield the records, the header's first, with the lines they begin in."""
    lines = lines_of(path)
    first, skipped = next(lines, ""), 0
    told = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))  # Excel's hint
    if told:
        first, skipped = next(lines, ""), 1
    while first and not first.strip():
        first, skipped = next(lines, ""), skipped + 1
    tabs = tabs and not told and ("\t" in first or not any(map(first.count, DELIMITERS)))
    delimiter = told[1] if told else "\t" if tabs else _delimiter(path, first)
    lines = chain([first], lines) if first else iter(())
    if tabs and not first.startswith('"'):
        for number, line in enumerate(lines, start=skipped + 1):
            yield number, line.rstrip("\r\n").split(delimiter)
        return
    yield from _quoted_records(path, lines, delimiter, skipped)


def _delimiter(path: Path, header: str) -> str:
    bare = QUOTED.sub("", header)
    found = max(DELIMITERS, key=bare.count)  # of equals, the first
    if found != ",":
        log.info("%s: fields are separated by %s", path, DELIMITERS[found])
    return found


def _quoted_records(
    path: Path, lines: Iterator[str], delimiter: str, skipped: int
) -> Iterator[Record]:
    start, size = skipped + 1, 0

    def measured() -> Iterator[str]:
        nonlocal size
        for line in lines:
            size += len(line)
            check_row(path, start, size)
            yield line

    with _long_fields():
        reader = csv.reader(measured(), delimiter=delimiter, strict=True)
        try:
            for row in reader:
                yield start, row
                start, size = skipped + reader.line_num + 1, 0
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: cannot be read ({_remedy(error)})") from None


def _remedy(error: csv.Error) -> str:
    text = str(error)
    if "end of data" in text:
        return "a quote that is opened here is never closed"
    if "new-line" in text:
        return "a CR within the line; end all lines alike"
    if "expected after" in text:
        return f"{text}; a quote within a quoted field is written twice"
    return text


@contextmanager
def _long_fields() -> Generator[None]:
    """Let fields be as long as a row may be: the csv module's own limit is 128 KiB."""
    before = csv.field_size_limit(2 * characters.ROW_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)
