"""Reads Parquet files, whatever the types of their columns.

read_parquet(Path("train.parquet")).column("text")
"""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from leff.errors import DataError
from leff.tasks.sources.characters import check_file
from leff.tasks.sources.rows import Rows, column_names

KEPT = (str, bool, int, list, dict, type(None))


def read_parquet(path: Path) -> Rows:
    """Read a Parquet file; categories are their values, NaN is missing, times become text.

    Raises DataError for a file that cannot be read, or a text that is not UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    try:
        table = pq.read_table(path, partitioning=None, use_threads=False)
        read = table.to_pydict()
        columns = {name: [_value(value) for value in values] for name, values in read.items()}
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable Parquet file ({reason})") from None
    plain = zip(column_names(path, list(columns)), columns.values(), strict=True)
    kept = {name: values for name, values in plain if name}
    return Rows(path, kept, range(1, table.num_rows + 1), unit="row")


def _value(value: Any) -> Any:
    """Return a value as JSON has it: text, a number, a truth value, a list, an object or None."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        return value.decode()
    return cast(Any, value) if isinstance(value, KEPT) else str(value)
