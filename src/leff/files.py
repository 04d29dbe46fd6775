"""Files that a crash cannot halve, and JSON that every reader takes.

write_json(Path("result.json"), {"loss": float("nan")})      # {"loss": null}, whole or not there
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from leff.errors import CheckpointError


def finite(value: Any) -> Any:
    """Return a JSON value with null for every number that JSON has not: a NaN, an infinity."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_synced(path: Path, payload: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, payload: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, whole."""
    unfinished = path.with_name(f".{path.name}.new")
    write_synced(unfinished, payload)
    unfinished.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, values: Any) -> None:
    text = json.dumps(finite(values), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Return a JSON file's value, or None if there is no such file.  Raises CheckpointError."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it and resume") from None


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of names."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
