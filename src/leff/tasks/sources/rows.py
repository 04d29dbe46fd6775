"""Rows of data files; every complaint about one names the file and the line.

rows = read_rows(Path("train.csv")); rows.column("label"); rows.where(0)
"""

import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from leff.errors import DataError, nearest, shown

log = logging.getLogger("leff.tasks.load")
SHOWN_CHARACTERS, SHOWN_NAMES = 60, 8  # of a value and of a list in a message
HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Rows:
    """The columns of one file; entry i comes from line or row `lines[i]`, counted from 1.

    Rows of several files have `origins`, the rows of the file that each entry comes from.
    """

    path: Path | str
    columns: dict[str, list[Any]]
    lines: Sequence[int]
    unit: str = "line"
    origins: "Sequence[Rows]" = ()

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, i: int) -> str:
        origin = self.origins[i] if self.origins else self
        return f"{origin.path}, {origin.unit} {self.lines[i]}"

    def column(self, name: str) -> list[Any]:
        """Return the column's values; DataError if it is missing or has an empty (null) entry."""
        if name not in self.columns:
            present = listed(self.columns) or "none"
            hint = nearest(name, self.columns)
            hint = "" if hint.startswith("; known") else hint
            remedy = hint or f"; name yours: columns = {{{name} = '...'}} under [data]"
            raise DataError(f"{self.path} has no column {name!r} (columns: {present}){remedy}")
        values = self.columns[name]
        if None in values:
            raise self.blank(name, values.index(None))
        return values

    def blank(self, name: str, i: int) -> DataError:
        """Return the error for row i without a value in a column."""
        remedy = "; write [] if the row has no class" if name == "labels" else ""
        return DataError(f"{self.where(i)}: no value in column {name!r}{remedy}")

    def text(self, name: str) -> list[str]:
        """Return the column's values; DataError also if one of them is not a string."""
        values = self.column(name)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(
                    f"{self.where(i)}: {name!r} must be text, got {shown(value)}; write it in "
                    "quotes, or map another column"
                )
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
        origins = [self.origins[i] for i in chosen] if self.origins else ()
        return Rows(self.path, columns, [self.lines[i] for i in chosen], self.unit, origins)


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several files, one file after another; None where one lacks a column."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part.columns)
    empty = {id(part): [None] * len(part) for part in parts}
    columns = {
        name: [value for part in parts for value in part.columns.get(name, empty[id(part)])]
        for name in names
    }
    return Rows(
        f"{parts[0].path} and {len(parts) - 1} more",
        columns,
        [line for part in parts for line in part.lines],
        origins=[part for part in parts for _ in part.lines],
    )


def column_names(where: Path | str, names: Sequence[str]) -> list[str]:
    """Return the names of columns without outer blanks; an empty one is of no use, and logged.

    Raises DataError if two columns have the same name.
    """
    plain = [name.strip() for name in names]
    repeated = [name for name in plain if name and plain.count(name) > 1]
    if repeated:
        raise DataError(f"{where}: several columns are called {shown(repeated[0])}; rename one")
    if "" in plain:
        log.info("%s: column %d has no name and is left out", where, plain.index("") + 1)
    return plain


def whole_characters(value: Any) -> Any:
    """Return a JSON value whose strings have U+FFFD for half a character, such as "\\ud83d"."""
    if isinstance(value, str):
        return HALVES.sub("\ufffd", value)
    if isinstance(value, list):
        return [whole_characters(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, dict):
        return {whole_characters(k): whole_characters(v) for k, v in value.items()}  # pyright: ignore
    return value


def listed(names: Collection[str]) -> str:
    """Return the first `SHOWN_NAMES` names for a message, each in one line, and how many follow."""
    first = [_cut(" ".join(name.split())) for name in islice(names, SHOWN_NAMES)]
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(first) + more


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
