"""Reads TOML that people wrote, with limits that no configuration meets.

read_toml(Path("fleet.toml"), "fleet file")      # {"phone": {"count": 6, ...}}
"""

import re
import tomllib
from pathlib import Path
from typing import Any

from leff.errors import ConfigError

TOML_BYTES = 2**20  # far more than any configuration needs
KEY_PARTS = 1000  # the library's time grows with the square of a dotted key's parts


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
