"""Budgets as people write them: ``64MB``, ``50G``, ``50GFLOP/s``, ``20Mbit/s``, ``30s``.

parse_amount("64MB", BYTES)      # 64_000_000
parse_link("20Mbit/s")           # 2_500_000.0 bytes a second
"""

import math
import re
from collections.abc import Mapping

from leff.errors import ConfigError

BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
FLOPS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SPEEDS = {"FLOP/s": 1, **{f"{prefix}FLOP/s": value for prefix, value in FLOPS.items()}}
LINKS = {  # in bits a second
    "bit/s": 1,
    "kbit/s": 10**3,
    "Mbit/s": 10**6,
    "Gbit/s": 10**9,
    "B/s": 8,
    "kB/s": 8 * 10**3,
    "MB/s": 8 * 10**6,
    "GB/s": 8 * 10**9,
}
TIMES = {"ms": 1, "s": 10**3, "min": 60 * 10**3, "h": 3600 * 10**3}  # in milliseconds


def share_of(count: int, share: float) -> int:
    """Return a share of `count` things, at least one; half a thing counts as one."""
    return max(1, math.floor(round(count * share, 9) + 0.5))  # 0.29 · 50 is below 14.5


def parse_amount(text: str, units: Mapping[str, int]) -> int:
    """Return the number that a text such as ``64MB`` stands for, rounded down.

    The unit may be left out.  ConfigError for an unknown unit, or no number.
    """
    return _amount(text, units)[0]


def parse_speed(text: str) -> int:
    """Return the operations a second of a text such as ``50GFLOP/s``.

    ConfigError for an unknown unit or none, no number, or 0.
    """
    return _above_zero(text, SPEEDS, "speed")


def parse_link(text: str) -> float:
    """Return the bytes a second of a text such as ``20Mbit/s`` or ``2.5MB/s``.

    The unit is needed, since bits and bytes are easily mixed up.  ConfigError for an unknown unit
    or none, no number, or 0.
    """
    return _above_zero(text, LINKS, "bandwidth") / 8


def parse_seconds(text: str) -> float:
    """Return the seconds of a text such as ``30s``, ``1.5min`` or ``30``, to the millisecond.

    ConfigError for an unknown unit, no number, or 0.
    """
    bare = re.fullmatch(r"\s*[\d.]+\s*", text, re.ASCII)
    return _above_zero(f"{text.strip()}s" if bare else text, TIMES, "time") / 1000


def _above_zero(text: str, units: Mapping[str, int], what: str) -> int:
    amount, unit = _amount(text, units)
    if not unit:
        raise ConfigError(f"the {what} {text!r} needs a unit: {', '.join(units)}")
    if not amount:
        raise ConfigError(f"the {what} must be above 0, got {text!r}")
    return amount


def _amount(text: str, units: Mapping[str, int]) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?([A-Za-z/]*)", text.strip(), re.ASCII)
    if not match:
        raise ConfigError(f"{text!r} is no amount; write a number and one of {', '.join(units)}")
    number, unit = match.groups()
    if unit and unit not in units:
        raise ConfigError(f"{text!r} has an unknown unit {unit!r}; known are {', '.join(units)}")
    whole, _, part = number.partition(".")
    return int((whole or "0") + part) * units.get(unit, 1) // 10 ** len(part), unit
