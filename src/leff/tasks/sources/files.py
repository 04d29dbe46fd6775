"""Reads rows from files; every error names the file and the line.

rows = read_rows(Path("train.csv")); rows.column("label")
"""

import csv
import gzip
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

from leff.errors import DataError, nearest

log = logging.getLogger("leff.tasks.load")
DATA_VARIABLE = "LEFF_DATA"


@dataclass(frozen=True)
class Rows:
    """The columns of one file; entry i comes from line or row `lines[i]`, counted from 1."""

    path: Path | str
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, i: int) -> str:
        return f"{self.path}, {self.unit} {self.lines[i]}"

    def column(self, name: str) -> list[Any]:
        """Return the column's values; DataError if it is missing or has an empty (null) entry."""
        if name not in self.columns:
            present = ", ".join(self.columns) or "none"
            hint = nearest(name, self.columns)
            hint = "" if hint.startswith("; known") else hint
            raise DataError(f"{self.path} has no column {name!r} (columns: {present}){hint}")
        values = self.columns[name]
        if None in values:
            raise DataError(f"{self.where(values.index(None))}: no value in column {name!r}")
        return values

    def text(self, name: str) -> list[str]:
        """Return the column's values; DataError also if one of them is not a string."""
        values = self.column(name)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(f"{self.where(i)}: {name!r} must be text, got {value!r}")
        return values

    def filled(self, name: str) -> list[str]:
        """Return the column's values; DataError also if one of them is blank."""
        values = self.text(name)
        for i, value in enumerate(values):
            if not value.strip():
                raise DataError(f"{self.where(i)}: no value in column {name!r}")
        return values

    def select(self, keep: Sequence[bool]) -> "Rows":
        chosen = [i for i, kept in enumerate(keep) if kept]
        columns = {name: [values[i] for i in chosen] for name, values in self.columns.items()}
        return Rows(self.path, columns, [self.lines[i] for i in chosen], self.unit)


def locate(
    task: str, folder: Path | None, inside: Sequence[str], names: Mapping[str, Sequence[str]]
) -> dict[str, Path] | None:
    """Return the file of every split, or None if the task must come from the hub.

    Looks in each of the sub-folders `inside` of `folder` (or of ``LEFF_DATA``) for the first of
    the `names` of each split; ``test`` may be missing.  If `folder` is given and does not hold the
    task, raises DataError with the names and places that were tried.  If ``LEFF_DATA`` does not
    hold it, logs a warning.
    """
    variable = os.environ.get(DATA_VARIABLE)
    root = folder or (Path(variable).expanduser() if variable else None)
    if root is None:
        return None
    places = [root / sub for sub in inside if (root / sub).is_dir()]
    for place in places:
        paths = {
            split: next((place / name for name in options if (place / name).exists()), None)
            for split, options in names.items()
        }
        if paths["train"] and paths["validation"]:
            return {split: path for split, path in paths.items() if path}
    wanted = "; ".join(f"{s}: {' or '.join(o)}" for s, o in names.items() if s != "test")
    looked = ", ".join(str(root / sub) for sub in inside)
    reason = f"does not hold the task {task!r}: looked in {looked} for {wanted}"
    if folder is None:
        log.warning("%s=%s %s; the hub is asked", DATA_VARIABLE, root, reason)
        return None
    raise DataError(
        f"{folder} {reason}. Name the folder that has them with --data-dir, or leave it out "
        "to load from the hub"
    )


def open_text(path: Path, newline: str = "\n") -> TextIO:
    """Open a text file, gzipped if its name says so; a byte order mark is skipped."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def read_rows(path: Path) -> Rows:
    """Read a Parquet, JSONL, CSV or TSV file; the last three may be gzipped.

    Raises DataError naming the file, and the line if a single one cannot be read.
    """
    suffix = (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()
    readers: dict[str, Callable[[Path], Rows]] = {
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
        ".json": _read_jsonl,
        ".csv": _read_csv,
        ".tsv": read_tsv,
        ".txt": read_tsv,
    }
    if suffix not in readers:
        raise DataError(f"{path}: cannot read {suffix or 'a file without ending'}; use Parquet, "
                        "JSONL, CSV or TSV")  # fmt: skip
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    return readers[suffix](path)


def read_lines(path: Path) -> tuple[list[str], list[int]]:
    """Return the lines that are not blank, without their ends, and their numbers from 1."""
    texts: list[str] = []
    numbers: list[int] = []
    number = 0
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    texts.append(line.rstrip("\r\n"))
                    numbers.append(number)
        except (UnicodeDecodeError, OSError, EOFError) as error:
            raise DataError(f"{path}, line {number + 1}: cannot be read ({error})") from error
    return texts, numbers


def read_tsv(path: Path, header: Sequence[str] | None = None, drop_short: bool = False) -> Rows:
    """Read tab-separated lines as GLUE writes them: quotes are ordinary characters.

    `header` names the columns of a file without a header line.  A line with too few fields raises
    DataError, or is left out if `drop_short`.  Fields beyond the header are ignored.
    """
    texts, numbers = read_lines(path)
    if header is None:
        if not texts:
            raise DataError(f"{path} is empty")
        header, texts, numbers = texts[0].split("\t"), texts[1:], numbers[1:]
    width = len(header)
    rows: list[list[str]] = []
    kept: list[int] = []
    for text, number in zip(texts, numbers, strict=True):
        fields = text.split("\t")
        if len(fields) >= width:
            rows.append(fields[:width])
            kept.append(number)
        elif not drop_short:
            raise DataError(
                f"{path}, line {number}: {len(fields)} fields, but the columns are {width}: "
                f"{', '.join(header)}"
            )
    return Rows(path, {name: [row[i] for row in rows] for i, name in enumerate(header)}, kept)


def _read_csv(path: Path) -> Rows:
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    with open_text(path, newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if not header:
                raise DataError(f"{path} has no header line")
            repeated = [name for name in header if header.count(name) > 1]
            if repeated:
                raise DataError(f"{path}, line 1: several columns are called {repeated[0]!r}")
            start = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise DataError(
                        f"{path}, line {start}: {len(row)} fields, but the columns are "
                        f"{len(header)}: {', '.join(header)}"
                    )
                if row:
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError, OSError, EOFError) as error:
            raise DataError(f"{path}, line {start}: cannot be read ({error})") from error
    return Rows(path, {name: [row[i] for row in rows] for i, name in enumerate(header)}, lines)


def _read_jsonl(path: Path) -> Rows:
    records: list[dict[str, Any]] = []
    texts, numbers = read_lines(path)
    for text, number in zip(texts, numbers, strict=True):
        try:
            record: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object, got {text[:40]!r}")
        records.append(cast(dict[str, Any], record))
    names = dict.fromkeys(name for record in records for name in record)
    return Rows(path, {name: [r.get(name) for r in records] for name in names}, numbers)


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error
    return Rows(path, table.to_pydict(), range(1, table.num_rows + 1), unit="row")
