"""Files that neither a crash nor a power cut can halve, and JSON whose damage is noticed.

    write_json(Path("result.json"), {"loss": float("nan")})      # {"loss": null, "sha256": ...}
    with whole_folder(Path("model")) as unfinished:
        model.save_pretrained(unfinished)                        # all of it, or no folder

What a function here wrote is on the disk when the function returns: the content, and the name in
its folder.  JSON is sealed: its key ``sha256`` is the digest of all other keys.

    with locked(folder / ".lock"):                               # no other process is in here
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from leff.errors import CheckpointError

Json = Mapping[str, Any] | Sequence[Any] | float | None  # a text is a sequence, an int a float
SEAL = "sha256"
LOOK_SECONDS = 0.5  # more than it takes to see whether a file is locked


def finite(value: Json) -> Any:
    """Return a JSON value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in cast("list[Any]", value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as JSON will have them, and their digest under ``sha256``."""
    plain = json.loads(json.dumps(finite(values), allow_nan=False))
    return {**plain, SEAL: _digest(plain)}


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Return what was sealed, without the seal.  ValueError if it is not what was written."""
    try:
        read: Any = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(read, dict):
        raise ValueError("it is not what was written")
    values = cast("dict[str, Any]", read)
    seal = values.pop(SEAL, None)
    if seal is None:
        raise ValueError(f"it has no {SEAL}")
    if seal != _digest(values):
        raise ValueError(f"its {SEAL} is not that of what it holds")
    return values


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.  OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, payload: bytes) -> None:
    """Write a file and wait until its content is on the disk; its name may not be yet."""
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, payload: bytes, secret: bool = False) -> None:
    """Replace a file at once: a reader sees the whole old file or the whole new one.

    A `secret` file can be read by its owner only.
    """
    unfinished = path.with_name(f".{path.name}.new")
    if secret:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
    write_synced(unfinished, payload)
    unfinished.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, values: Mapping[str, Any], secret: bool = False) -> None:
    """Write values as sealed JSON, as `write_atomically`, with null for every NaN and infinity."""
    text = json.dumps(sealed(values), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode(), secret)


def read_json(path: Path, remedy: str) -> dict[str, Any] | None:
    """Return the values of sealed JSON, or None without the file.

    Raises CheckpointError, with the remedy, if it is damaged.
    """
    try:
        return unsealed(path.read_bytes()) if path.exists() else None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); {remedy}") from None


def append_synced(path: Path, payload: bytes) -> None:
    """Append to a file, which need not exist yet."""
    new = not path.exists()
    with path.open("ab") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    if new:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, unless they exist."""
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


@contextmanager
def locked(path: Path, seconds: float = LOOK_SECONDS) -> Generator[None]:
    """Keep other processes out while the body runs; the lock goes with the process.

    Raises BlockingIOError if another has it for `seconds`; a look of `is_locked` is shorter.
    """
    lock = FileLock(path, timeout=-1 if seconds == math.inf else seconds)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"another process has {path}") from None
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Return whether a process has the lock of this file."""
    try:
        with locked(path, 0.0):
            return False
    except BlockingIOError:
        return True


@contextmanager
def whole_folder(path: Path) -> Generator[Path]:
    """Give the body a new folder to fill, and put it in the place of `path` when it is full.

    If the body raises, nothing of it is left.
    """
    unfinished = path.with_name(f".{path.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for inner in [*unfinished.rglob("*"), unfinished]:
            (sync_folder if inner.is_dir() else sync_file)(inner)
        shutil.rmtree(path, ignore_errors=True)
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # it is there only if something failed


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """Give the body the name of a file to write, and give that its name `path` when it is whole.

    If the body raises, nothing of it is left.
    """
    unfinished = path.with_name(f".{path.name}.new")
    try:
        yield unfinished
        sync_file(unfinished)
        unfinished.replace(path)
        sync_folder(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of names is on the disk; Windows has no call for that."""
    if sys.platform == "win32":
        return
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
