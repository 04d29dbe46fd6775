"""Files that a crash cannot leave half written, JSON that every reader accepts, and TOML.

write_json(Path("result.json"), {"loss": float("nan")})      # {"loss": null}
read_toml(Path("fleet.toml"), "fleet file")                  # {"phone": {"count": 6, ...}}
"""

import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leff.errors import CheckpointError, ConfigError

TOML_BYTES = 2**20  # far more than any configuration needs
KEY_PARTS = 1000  # the library's time grows with the square of a dotted key's parts
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


def read_toml(path: Path, what: str = "file", remedy: str = "") -> dict[str, Any]:
    """Return a TOML file's values.

    Raises ConfigError if there is no such file (`what` names its kind, `remedy` ends the message),
    and for one that cannot be read, is larger than a MiB, or is not TOML in UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(TOML_BYTES + 1)
        return parse_toml(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {what} {path}{remedy}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of TOML text; ValueError for what is not TOML, too long or too nested."""
    if len(text) > TOML_BYTES:
        raise ValueError("it has more than a MiB, so it is no configuration")
    keys = re.split(r"[,=\n\[\]{}]", text)
    if max(key.count(".") for key in keys) > KEY_PARTS:
        raise ValueError(f"a key has more than {KEY_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
