"""Files that a crash cannot leave half written, and JSON that every reader accepts.

write_json(Path("result.json"), {"loss": float("nan")})      # {"loss": null}
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leff.errors import CheckpointError

Json = Mapping[str, Any] | Sequence[Any] | float | None  # a text is a sequence, an int a float


def finite(value: Json) -> Any:
    """Return a JSON value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_synced(path: Path, payload: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, payload: bytes) -> None:
    """Replace a file at once: a reader sees the whole old file or the whole new one."""
    unfinished = path.with_name(f".{path.name}.new")
    write_synced(unfinished, payload)
    unfinished.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, values: Json) -> None:
    """Write a value as JSON, atomically, with null for every NaN and infinity."""
    text = json.dumps(finite(values), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Return a JSON file's value, or None without the file; CheckpointError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it and resume") from None


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of names is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def expanded(path: str | Path) -> Path:
    """Return a path with `~` as the home folder; the name of an unknown user stays as written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
