# The part of `pyarrow` that LEFF uses.

from typing import Any

class ArrowException(Exception): ...  # noqa: N818

class Table:
    num_rows: int
    def to_pydict(self) -> dict[str, list[Any]]: ...
