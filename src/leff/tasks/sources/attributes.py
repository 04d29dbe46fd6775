"""Attributes: the other columns of a train file, by which examples can be divided over clients.

usable, unusable = attributes_of(rows, without=("text", "label"))
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError, shown
from leff.tasks.sources.files import ending
from leff.tasks.sources.labels import plain
from leff.tasks.sources.rows import Rows

log = logging.getLogger("leff.tasks.load")
FILE = "file"  # the attribute that says which of several train files a row is of
LARGEST = 2**63


def attributes_of(
    rows: Rows, without: Sequence[str]
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the columns that name groups, and for each other column why it does not.

    The values of a column become all names or all numbers.  Names are read as labels are.
    """
    usable: dict[str, list[Any]] = {}
    unusable: dict[str, str] = {}
    for name, values in rows.columns.items():
        if name in without:
            continue
        problem = next(filter(None, (_problem(rows, name, i) for i in range(len(rows)))), None)
        if problem:
            unusable[name] = problem
        else:
            usable[name] = _alike([plain(v) if isinstance(v, str) else _whole(v) for v in values])
    return usable, unusable


def with_file(parts: Sequence[Rows]) -> list[Rows]:
    """Return the rows of several files with the column ``file``, the name of each row's file."""
    named = zip(parts, file_names([Path(part.path) for part in parts]), strict=True)
    return [with_own(part, FILE, [name] * len(part)) for part, name in named]


def with_own(rows: Rows, name: str, values: list[Any]) -> Rows:
    """Return the rows with a column of ours; a column of the user's by that name is not kept."""
    if name in rows.columns:
        log.warning(
            "%s: the column %r is not kept, since LEFF makes one by that name; rename it to use it",
            rows.path, name,
        )  # fmt: skip
    columns = {**rows.columns, name: values}
    return Rows(rows.path, columns, rows.lines, rows.unit, rows.origins)


def file_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each file: without folder and ending if that tells them apart.

    Raises ConfigError if a file is given twice.
    """
    repeated = [path for path in paths if list(paths).count(path) > 1]
    if repeated:
        raise ConfigError(f"the train file {repeated[0]} is given twice; name it once")
    stems = [path.name[: -len(path.suffix)] if _packed(path) else path.name for path in paths]
    stems = [stem[: len(stem) - len(ending(Path(stem)))] or stem for stem in stems]
    for names in (stems, [f"{p.parent.name}/{s}" for p, s in zip(paths, stems, strict=True)]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _problem(rows: Rows, name: str, i: int) -> str | None:
    value = rows.columns[name][i]
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"{rows.where(i)}: no value in column {name!r}"
    if isinstance(value, str | int) or (isinstance(value, float) and value.is_integer()):
        return None
    return (
        f"{rows.where(i)}: {shown(value)} in column {name!r} is neither a name nor a whole number"
    )


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) else value


def _alike(values: list[Any]) -> list[Any]:
    """Return the values as they are if all have one type that a data set can hold, else as text."""
    large = any(isinstance(value, int) and abs(value) >= LARGEST for value in values)
    return list(map(str, values)) if large or len(set(map(type, values))) > 1 else values
