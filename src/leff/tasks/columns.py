"""A table of a task's rows: columns of equal length by name, in plain Python lists.

    table = Table({"text": ["a", "b"], "label": [0, 1]})
    len(table), table["text"], table[0], table[:1]     # 2, ["a", "b"], {...}, {"text": ["a"], ...}

A device imports this file: it needs no library of data sets.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload


@dataclass(frozen=True)
class Table:
    """Columns by name.  Raises ValueError if their lengths differ."""

    columns: Mapping[str, Sequence[Any]]

    def __post_init__(self) -> None:
        if len({len(values) for values in self.columns.values()}) > 1:
            lengths = ", ".join(f"{name} {len(values)}" for name, values in self.columns.items())
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, key: str) -> Sequence[Any]: ...
    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> dict[str, Sequence[Any]]: ...

    def __getitem__(self, key: str | int | slice) -> Any:
        """Return a column by name, a row by number, or the columns of a slice of rows."""
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}

    def select(self, rows: Iterable[int]) -> "Table":
        """Return the rows of these numbers, in their order."""
        chosen = [int(row) for row in rows]
        return Table({name: [vs[i] for i in chosen] for name, vs in self.columns.items()})


def joined_tables(parts: Sequence[Table]) -> Table:
    """Return the rows of several tables with the same columns, one table after another."""
    return Table({name: [v for part in parts for v in part[name]] for name in parts[0].columns})
