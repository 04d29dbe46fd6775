"""Reads JSON: one object a line, one array of objects, or one object of columns.

read_json(Path("alpaca.json")).where(0)      # "alpaca.json, record 1"
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, cast

from leff.errors import DataError
from leff.tasks.sources.characters import pieces_of, split_lines
from leff.tasks.sources.rows import Rows, column_names, whole_characters

log = logging.getLogger("leff.tasks.load")
FILE_CHARACTERS = 256 * 2**20  # of a file that must be read whole; JSON Lines have no such limit
FORMS = "write one object a line (JSON Lines), or one array of objects"
Record = dict[str, Any]


def read_json(path: Path, whole: bool = False) -> Rows:
    """Read a file of JSON lines; or of one value, if it begins with a bracket or is `whole`.

    ``NaN`` is a missing value.  Half a character, as cut exports have, becomes U+FFFD, which is
    logged.  Raises DataError with the line or record.
    """
    pieces = pieces_of(path)
    first = next(pieces, "")
    pieces = chain([first], pieces)
    if not whole and not first.lstrip().startswith("["):
        return _of_lines(path, split_lines(path, pieces))
    text = _joined(path, pieces)
    if not text.strip():
        return Rows(path, {}, [])
    try:
        value = _loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return _of_lines(path, split_lines(path, [text]))
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {FORMS}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON that can be read ({_reason(error)}); {FORMS}") from None
    if isinstance(value, list):
        entries = cast("list[Any]", value)
        return _rows(path, enumerate(entries, start=1), unit="record")
    if columns := _columns(value):
        count = len(next(iter(columns.values())))
        records = ({name: column[i] for name, column in columns.items()} for i in range(count))
        return _rows(path, enumerate(records, start=1), unit="record")
    return _rows(path, [(1, value)], unit="record")


def _of_lines(path: Path, lines: Iterable[str]) -> Rows:
    return _rows(path, _parsed(path, lines), unit="line")


def _parsed(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, _loads(line)
        except json.JSONDecodeError as error:
            hint = f"; {FORMS}" if number == 1 else ""
            raise DataError(
                f"{path}, line {number}: not JSON ({error.msg}, column {error.colno}){hint}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({_reason(error)})") from None


def _rows(path: Path, numbered: Iterable[tuple[int, Any]], unit: str) -> Rows:
    records, numbers, cut = list[Record](), list[int](), 0
    for number, record in numbered:
        if not isinstance(record, dict):
            shown = json.dumps(record)[:40]
            raise DataError(f"{path}, {unit} {number}: must be a JSON object, got {shown}")
        whole: Record = whole_characters(record)
        cut += whole != record
        records.append(whole)
        numbers.append(number)
    if cut:
        log.warning("%s: %d %ss have half a character, read as U+FFFD", path, cut, unit)
    names = list(dict.fromkeys(name for record in records for name in record))
    plain = zip(column_names(path, names), names, strict=True)
    columns = {ours: [record.get(name) for record in records] for ours, name in plain if ours}
    return Rows(path, columns, numbers, unit)


def _columns(value: Any) -> dict[str, list[Any]] | None:
    """Return the columns of an object of lists, or of objects as pandas writes them, if it is."""
    if not isinstance(value, dict):
        return None
    columns: dict[str, list[Any]] = {}
    for name, column in cast("Record", value).items():
        if isinstance(column, Mapping):
            column = list(cast("Record", column).values())
        if not isinstance(column, list):
            return None
        columns[name] = cast("list[Any]", column)
    return columns if len({len(column) for column in columns.values()}) == 1 else None


def _joined(path: Path, pieces: Iterable[str]) -> str:
    parts, size = list[str](), 0
    for piece in pieces:
        size += len(piece)
        if size > FILE_CHARACTERS:
            raise DataError(
                f"{path}: more than {FILE_CHARACTERS:,} characters in a file that is read whole; "
                "write one object a line, in a file called .jsonl"
            )
        parts.append(piece)
    return "".join(parts)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_constant)


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _reason(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else str(error)
