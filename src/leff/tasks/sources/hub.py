"""Public data sets from the Hugging Face hub.

len(fetch("nyu-mll/glue", "rte")["train"])
"""

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from leff.errors import DataError
from leff.tasks.sources.files import DATA_VARIABLE
from leff.tasks.sources.rows import Rows

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger("leff.tasks.load")
CONVERTED = "refs/convert/parquet"  # the hub's Parquet copy of data sets that ship as scripts


def fetch(repository: str, config: str | None = None) -> "dict[str, Dataset]":
    """Return the data set's splits by name; `datasets` keeps them in its cache.

    Raises DataError, with the remedy, if the hub cannot be reached or lacks the data set.
    """
    from datasets import load_dataset

    log.info("loading %s from the Hugging Face hub", repository)
    try:
        try:
            splits = load_dataset(repository, config)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            splits = load_dataset(repository, config, revision=CONVERTED)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"{repository} ({config})" if config else repository
        folder = os.environ.get(DATA_VARIABLE)
        looked = f"{DATA_VARIABLE}={folder} does not hold it" if folder else "no folder was named"
        raise DataError(
            f"{looked}, and the hub's data set {what} could not be loaded: {error}. Without a "
            f"network, name a folder that holds the files with --data-dir or in {DATA_VARIABLE}"
        ) from error
    return {str(name): split for name, split in splits.items()}


def hub_rows(splits: "Mapping[str, Dataset]", split: str, repository: str) -> Rows:
    """Return one split as rows; DataError if the data set has no such split."""
    if split not in splits:
        raise DataError(f"{repository} has no split {split!r}; it has {', '.join(splits)}")
    data = splits[split]
    return Rows(f"{repository}/{split}", data.to_dict(), range(1, len(data) + 1), unit="row")
