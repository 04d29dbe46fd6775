from pathlib import Path

from pyarrow import Table

def read_table(source: Path, *, partitioning: None, use_threads: bool = True) -> Table: ...
