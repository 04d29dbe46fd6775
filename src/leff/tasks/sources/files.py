"""Finds and reads data files; every error names the file and the line.

rows = read_rows(Path("train.csv")); rows.column("label")
"""

import glob
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from leff.errors import DataError
from leff.tasks.sources.characters import check_file, lines_of
from leff.tasks.sources.delimited import read_delimited
from leff.tasks.sources.json_rows import read_json
from leff.tasks.sources.parquet_rows import read_parquet
from leff.tasks.sources.rows import Rows, listed

log = logging.getLogger("leff.tasks.load")
DATA_VARIABLE = "LEFF_DATA"
READERS: dict[str, Callable[[Path], Rows]] = {
    ".parquet": read_parquet,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": lambda path: read_json(path, whole=True),
    ".csv": read_delimited,
    ".tsv": lambda path: read_delimited(path, tabs=True),
    ".txt": lambda path: read_delimited(path, tabs=True),
}
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")


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


def named_files(path: Path) -> list[Path]:
    """Return the file of a path, or those of a pattern such as ``sites/*.jsonl``, in sorted order.

    Raises DataError for a pattern without a file.  Other paths need not exist.
    """
    exact = glob.glob(glob.escape(str(path)))  # noqa: PTH207  # never raises
    if exact or not glob.has_magic(str(path)):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [each for each in found if each.is_file()]
    if not files:
        raise DataError(f"no file fits the pattern {path}")
    return files


def ending(path: Path) -> str:
    """Return a file's ending in lower case, without ``.gz``."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def read_rows(path: Path) -> Rows:
    """Read a file by its ending: Parquet, JSON, CSV or TSV; all but the first may be gzipped.

    Raises DataError naming the file, and the line if a single one cannot be read.
    """
    check_file(path)
    kind = ending(path)
    if kind in READERS:
        return READERS[kind](path)
    if kind in SHEETS:
        raise DataError(f"{path}: cannot read {kind} workbooks; save the sheet as CSV (UTF-8)")
    raise DataError(
        f"{path}: cannot read {kind or 'a file without ending'}; use {', '.join(READERS)}, "
        "or one of the last six with .gz after it"
    )


def read_lines(path: Path) -> tuple[list[str], list[int]]:
    """Return the lines that are not blank, without their ends, and their numbers from 1."""
    texts: list[str] = []
    numbers: list[int] = []
    for number, line in enumerate(lines_of(path), start=1):
        if line.strip():
            texts.append(line.rstrip("\r\n"))
            numbers.append(number)
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
                f"{listed(header)}"
            )
    return Rows(path, {name: [row[i] for row in rows] for i, name in enumerate(header)}, kept)
