"""Any value that TOML has, and what a program may do with it: say so in a line, soon."""

import contextlib
import datetime
import math
import random
import resource
import signal
from pathlib import Path

from leff.errors import LeffError
from leff.runs.toml import _toml

GIB = 2**30
NUMBERS = [0, 1, -1, 2, 7, 8, 64, 2**31, 2**63, 10**12 + 1, 10**30, 10**5000, -(10**5000)]
NUMBERS += [0.0, -0.0, 5e-324, 1e-9, 0.5, 1.0, 8.0, 1e22, 1e308, math.inf, -math.inf, math.nan]
TEXTS = ["", " ", "8", "0.5", "true", "all", "auto", "default", "~", "~nobody/x", "~nosuchuser/x"]
TEXTS += ["/", ".", "/dev/null", "/proc/self/mem/x", "x" * 300, "a/" * 3000, "x" * 100_000]
TEXTS += ["\0", "a\0b", "a\nb\r\n", "\x1b[31m", "\ud800", "\udcff", "ﬁ٣", "'\"'", "=", "[a]"]
TEXTS += ["9" * 5000 + "GB", "64MB", "1e9", "-4MB", "٣s", "0." + "0" * 5000, "30s", "1GB ", "inf"]
TEXTS += ["cpu", "cuda:99", "cpu:7", "tpu", "meta", "mps", "xla", "hpu", "cuda:-1", "lazy"]
TIMES = [
    datetime.date(2026, 1, 2),
    datetime.time(1, 2),
    datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
]
KEYS = ["", " ", "a", "input", "text", "a.b", '"q"', "é", "\0", "x" * 5000, "name", "count"]


def any_value(rng: random.Random, depth: int = 3):
    """Return any value that TOML has."""
    kind = rng.randrange(8 if depth else 5)
    if kind < 5:
        return rng.choice((NUMBERS, TEXTS, TIMES, [True, False], NUMBERS)[kind])
    size = rng.choice((0, 1, 2, 5))
    if kind == 5:
        return {rng.choice(KEYS): any_value(rng, depth - 1) for _ in range(size)}
    if rng.random() < 0.03:
        return [any_value(rng, 0)] * 20_000
    return [any_value(rng, depth - 1) for _ in range(size)]


def document(values) -> str:
    """Return a table as TOML text."""
    return "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in values.items())


def said(error: LeffError) -> str:
    """Return an error's message, checked: one readable line."""
    text = str(error)
    assert 0 < len(text) <= 2000 and "\n" not in text, text[:3000]
    assert "Input should" not in text and "pydantic" not in text and "x" * 200 not in text
    return text


@contextlib.contextmanager
def guarded(seconds: int = 60, more_bytes: int = 3 * GIB):
    """Limit the time of the body, and the address space that it may add."""

    def late(*_):
        raise TimeoutError(f"not done after {seconds} s")

    with Path("/proc/self/statm").open() as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (size + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
