"""Budgets as people write them: ``64MB``, ``1.5GiB``, ``50G``.

parse_amount("64MB", BYTES)      # 64_000_000
"""

import re
from collections.abc import Mapping

from leff.errors import ConfigError

BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
FLOPS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def parse_amount(text: str, units: Mapping[str, int]) -> int:
    """Return the number that a text such as ``64MB`` stands for, rounded down.

    Without a unit it is taken as it is.  ConfigError for another unit, or no number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?([A-Za-z]*)", text.strip(), re.ASCII)
    if not match:
        raise ConfigError(f"{text!r} is no amount; write a number and one of {', '.join(units)}")
    number, unit = match.groups()
    if unit and unit not in units:
        raise ConfigError(f"{text!r} has an unknown unit {unit!r}; known are {', '.join(units)}")
    whole, _, part = number.partition(".")
    return int((whole or "0") + part) * units.get(unit, 1) // 10 ** len(part)
