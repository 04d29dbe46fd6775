"""Any value of any option gives a run or one line of error, whoever adds an option.

The options are taken from `RunConfig` itself.
"""

import contextlib
import datetime
import logging
import math
import random
import resource
import signal
import tomllib
from typing import get_args, get_origin

import pytest
import torch
from tiny_runs import Killed, options, save_tiny, write_table

from leff.cli.runs import _option
from leff.errors import ConfigError, LeffError, shown
from leff.methods.registry import methods
from leff.runs.config import _literals, load_config, parse_config
from leff.runs.federation import Silent
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig, Section
from leff.runs.prepare import prepare
from leff.runs.toml import _toml, commented_toml
from leff.tasks.load import known_tasks

SECONDS, GIB = 60, 2**30  # what a tiny run may take
OPTIONS = {
    f"{section}.{name}".removesuffix("."): option
    for section, field in RunConfig.model_fields.items()
    for name, option in (
        field.annotation.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        else [("", field)]
    )
}
NUMBERS = [0, 1, -1, 2, 7, 8, 64, 2**31, 2**63, 10**12 + 1, 10**30, 10**5000, -(10**5000)]
NUMBERS += [0.0, -0.0, 5e-324, 1e-9, 0.5, 1.0, 8.0, 1e22, 1e308, math.inf, -math.inf, math.nan]
TEXTS = ["", " ", "8", "0.5", "true", "all", "auto", "default", "~", "~nobody/x", "~nosuchuser/x"]
TEXTS += ["/", ".", "/dev/null", "/proc/self/mem/x", "x" * 300, "a/" * 3000, "x" * 100_000]
TEXTS += ["\0", "a\0b", "a\nb\r\n", "\x1b[31m", "\ud800", "\udcff", "ﬁ٣", "'\"'", "=", "[a]"]
TEXTS += ["9" * 5000 + "GB", "64MB", "1e9", "-4MB", "٣s", "0." + "0" * 5000, "30s", "1GB ", "inf"]
TEXTS += ["cpu", "cuda:99", "cpu:7", "tpu", "meta", "mps", "xla", "hpu", "vulkan", "cuda:-1", "lazy"]
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


def bounds(option) -> dict[str, float]:
    found = {}
    for each in option.metadata:
        found |= {name: getattr(each, name) for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    return found


def near(key: str, rng: random.Random):
    """Return a value of the option's own kind: mostly one that it takes, or just does not."""
    option = OPTIONS[key]
    choices = list(_literals(option.annotation))
    if get_origin(option.annotation) is not None and type(None) in get_args(option.annotation):
        choices.append(None)
    if option.annotation is bool:
        choices = [True, False]
    choices += {
        "method.name": [*methods(), "lef"],
        "data.task": [*known_tasks(), "e2ee"],
        "proxy.task": [*known_tasks(), ""],
        "data.columns": [{}, {"input": "target"}, {"text": "nowhere"}, {"nonsense": "x"}],
        "proxy.columns": [{}, {"input": "target"}],
        "clients.layers": [[1], [4, 1], [5], [0], [-1], [10**9], [True], [1.0], []],
        "clients.memory": [["64MB"], ["1kB"], ["1B", 0], [10**30], ["9" * 5000 + "GB"], []],
        "clients.flops": [["50G"], ["1k"], [0], ["1e9"], []],
        "clients.ranks": [[1], [8, 2], [17], [10**9], [0], []],
        "clients.by": ["", "town", "food", "label", "target", "row"],
        "clients.deadline": ["", "30s", "1ms", "0s", "9" * 5000 + "h", "1e400h"],
        "engine.device": ["auto", "cpu", "cuda:99", "cpu:7", "tpu", "meta", "mps", "", "mkldnn"],
        "model.end_token": [None, "", "<|endoftext|>", "walk", "\n"],
    }.get(key, [])
    for value in bounds(option).values():
        choices += [value, value - 1, value + 1, -value, math.nextafter(value, 0)]
    if option.annotation in (int, float):
        choices += [1, 2, 3, 1.5, 0.3]
    return rng.choice(choices) if choices else any_value(rng)


def said(error: LeffError) -> str:
    """Return an error's message, checked: one readable line."""
    text = str(error)
    assert 0 < len(text) <= 2000 and "\n" not in text, text[:3000]
    assert "Input should" not in text and "pydantic" not in text and "x" * 200 not in text
    return text


@contextlib.contextmanager
def guarded(seconds: int = SECONDS, more_bytes: int = 3 * GIB):
    """Limit the time of the body, and the address space that it may add."""

    def late(*_):
        raise TimeoutError(f"not done after {seconds} s")

    with open("/proc/self/statm") as file:
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


def read(key: str, value, rng: random.Random, folder):
    """Return key and value as one of the doors hands them on: Python, `--set`, or a file."""
    door = rng.randrange(3)
    try:
        if door == 1:
            return _option(f"{key}={_toml(value)}")
        if door == 2:
            (folder / "c.toml").write_text(f"value = {_toml(value)}", encoding="utf-8")
            return key, tomllib.loads((folder / "c.toml").read_text(encoding="utf-8"))["value"]
    except (ValueError, RecursionError):  # TOML cannot hold it
        pass
    return key, value


@pytest.mark.soak(1500, 50_000)
def test_any_value_of_any_option_is_taken_or_refused_in_a_line(count, tmp_path):
    keys = [*OPTIONS, *RunConfig.model_fields, *(f"{key}.x" for key in KEYS), "", ".", "seed.x.y"]
    taken = 0
    for case in range(count):
        rng = random.Random(case)
        given = {}
        for key in rng.sample(keys, rng.randint(1, 3)):
            value = near(key, rng) if key in OPTIONS and rng.random() < 0.6 else any_value(rng)
            given |= [read(key, value, rng, tmp_path)]
        try:
            with guarded(20, GIB):
                config = load_config(None, given)
        except ConfigError as error:
            said(error)
            continue
        except BaseException as error:
            raise AssertionError(f"case {case}: {shown(given)}") from error
        taken += 1
        assert parse_config(tomllib.loads(commented_toml(config))) == config
    assert count // 20 < taken < count  # both ways are tried
