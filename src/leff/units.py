"""Budgets as people write them: ``64MB``, ``50G``, ``50GFLOP/s``, ``20Mbit/s``, ``30s``.

parse_amount("64MB", BYTES)      # 64_000_000
parse_link("20Mbit/s")           # 2_500_000.0 bytes a second
"""

import math
import re
from collections.abc import Mapping

from leff.errors import ConfigError, shown

LONGEST, LARGEST = 24, 10**18  # characters of an amount; its value in the smallest unit
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


def amount_text(value: object) -> str:
    """Return an amount as text; ConfigError for what is neither text nor a whole number."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"must be text such as '2GB', got {shown(value)}")
    if abs(value) > LARGEST:
        raise ConfigError(f"must be at most 10^18, got {shown(value)}")
    return str(value)


def share_of(count: int, share: float) -> int:
    """Return a share of `count` things, at least one; half a thing counts as one."""
    return max(1, math.floor(round(count * share, 9) + 0.5))  # 0.29 · 50 is below 14.5


def parse_amount(text: str, units: Mapping[str, int]) -> int:
    """Return the number that a text such as ``64MB`` stands for, rounded down.

    The unit may be left out.  ConfigError for an unknown unit, no number, or one above 10^18.
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
        raise ConfigError(f"the {what} {shown(text)} needs a unit: {', '.join(units)}")
    if not amount:
        raise ConfigError(f"the {what} must be above 0, got {shown(text)}")
    return amount


def _amount(text: str, units: Mapping[str, int]) -> tuple[int, str]:
    if len(text) > LONGEST:
        raise ConfigError(f"{shown(text)} is too long for an amount; the most is 10^18")
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?([A-Za-z/]*)", text.strip(), re.ASCII)
    known = ", ".join(units)
    if not match:
        raise ConfigError(f"{shown(text)} is no amount; write a number and one of {known}")
    number, unit = match.groups()
    if unit and unit not in units:
        raise ConfigError(f"{shown(text)} has an unknown unit {unit!r}; known are {known}")
    whole, _, part = number.partition(".")
    amount = int((whole or "0") + part) * units.get(unit, 1) // 10 ** len(part)
    if amount > LARGEST:
        raise ConfigError(f"{shown(text)} is too large; the most is 10^18")
    return amount, unit
