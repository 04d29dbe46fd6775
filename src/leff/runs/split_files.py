"""Writes the shards of central data that devices get in a trial: one file a client.

paths = write_shards(config, devices=3, out=Path("shards"))     # shards/device-000.jsonl, ...

The rows are divided as the local engine divides them.  A device that reads its file, and holds
nothing out (`validation_share = 0`), has the very examples of the local engine's client.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.files import make_folder, write_atomically
from leff.runs.budgets import with_file_clients, with_fleet_count
from leff.runs.options import RunConfig
from leff.runs.shares import divided
from leff.runs.sources import task_of
from leff.tasks.columns import Table
from leff.tasks.partition import Partition
from leff.tasks.sources.table import CANONICAL
from leff.tasks.task import Task


def write_shards(config: RunConfig, devices: int, out: Path) -> list[Path]:
    """Divide a configuration's training rows over `devices` clients, and write a file for each.

    A row has our columns (input and target, or text, text_pair and label) and a label its name.
    Files of an earlier split are replaced.  Raises ConfigError for a number of devices that the
    configuration rules out, or a folder that holds anything else, and DataError as a run does.
    """
    if devices < 1:
        raise ConfigError(f"there must be at least one device, got {devices}")
    config = with_file_clients(with_fleet_count(config))
    clients = config.clients
    if clients.count != devices and (clients.fleet or clients.partition == "files"):
        raise ConfigError(
            f"{devices} devices, but the configuration has {clients.count} clients, by "
            f"{'its fleet file' if clients.fleet else 'its train files'}; ask for as many"
        )
    config = config.model_copy(update={"clients": clients.model_copy(update={"count": devices})})
    task = task_of(config)
    _, train, split = divided(config, task)
    return write_rows(train, split, task, out)


def write_rows(train: Table, split: Partition, task: Task, out: Path) -> list[Path]:
    """Write each client's rows of a division as a file, and return the files in order."""
    _clear(out)
    paths = [out / f"device-{client:03}.jsonl" for client in range(len(split.indices))]
    for path, rows in zip(paths, split.indices, strict=True):
        lines = (json.dumps(row, ensure_ascii=False) for row in _named(train.select(rows), task))
        write_atomically(path, "".join(f"{line}\n" for line in lines).encode())
    return paths


def _clear(out: Path) -> None:
    """Make the folder, or empty it of an earlier split's files."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder")
    make_folder(out)
    old = list(out.iterdir())
    foreign = next((path for path in old if not path.match("device-*.jsonl")), None)
    if foreign is not None:
        raise ConfigError(f"{out} holds {foreign.name}, which is no shard; name another folder")
    for path in old:
        path.unlink()


def _named(rows: Table, task: Task) -> Iterable[Mapping[str, Any]]:
    """Return the rows with our columns only, and classes by name."""
    several = task.kind == "multilabel"
    kept = [name for name in rows.columns if name in CANONICAL]
    for row in rows:
        own = {name: row[name] for name in kept}
        if several:
            has = own.pop("label")
            own["labels"] = [name for name, one in zip(task.labels, has, strict=True) if one]
        elif task.labels:
            own["label"] = task.labels[own["label"]]
        yield own
