"""Any value of any option gives a run or one line of error, whoever adds an option.

The options are taken from `RunConfig` itself.
"""

import contextlib
import logging
import math
import random
import tomllib
from typing import get_args, get_origin

import pytest
from any_toml import GIB, KEYS, any_value, guarded, said
from tiny_runs import Killed, options, save_tiny, write_table

from leff.cli.runs import option
from leff.errors import ConfigError, LeffError, shown
from leff.methods.registry import methods
from leff.runs.config import _literals, load_config, parse_config
from leff.runs.federation import Silent
from leff.runs.folder import RunFolder
from leff.runs.option_types import Section
from leff.runs.options import RunConfig
from leff.runs.prepare import prepare
from leff.runs.toml import _toml, commented_toml
from leff.tasks.load import known_tasks

OPTIONS = {
    f"{section}.{name}".removesuffix("."): option
    for section, field in RunConfig.model_fields.items()
    for name, option in (
        field.annotation.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        else [("", field)]
    )
}
SPECIAL = {
    "method.name": [*methods(), "lef"],
    "data.task": [*known_tasks(), "e2ee"],
    "proxy.task": [*known_tasks(), ""],
    "data.columns": [{}, {"input": "target"}, {"text": "nowhere"}, {"nonsense": "x"}],
    "data.labels": [[], ["flat"], ["wet", "steep", "flat"], ["1", "2"], ["a", " "], ["a", "a"]],
    "evaluation.device_metric": ["", "accuracy", "f1", "pearson", "spearman", "BLEU", "nothing"],
    "proxy.columns": [{}, {"input": "target"}],
    "clients.layers": [[1], [4, 1], [5], [0], [-1], [10**9], [True], [1.0], []],
    "clients.memory": [["64MB"], ["1kB"], ["1B", 0], [10**30], ["9" * 5000 + "GB"], []],
    "clients.flops": [["50G"], ["1k"], [0], ["1e9"], []],
    "clients.ranks": [[1], [8, 2], [17], [10**9], [0], []],
    "clients.by": ["", "town", "food", "label", "target", "row"],
    "clients.deadline": ["", "30s", "1ms", "0s", "9" * 5000 + "h", "1e400h"],
    "engine.device": ["auto", "cpu", "cuda:99", "cpu:7", "tpu", "meta", "mps", "", "mkldnn"],
    "model.end_token": [None, "", "<|endoftext|>", "walk", "\n"],
}


def bounds(option) -> dict[str, float]:
    found = {}
    for each in option.metadata:
        found |= {
            name: getattr(each, name) for name in ("ge", "gt", "le", "lt") if hasattr(each, name)
        }
    return found


def near(key: str, rng: random.Random):
    """Return a value of the option's own kind: mostly one that it takes, or just does not."""
    option = OPTIONS[key]
    choices = list(_literals(option.annotation))
    if get_origin(option.annotation) is not None and type(None) in get_args(option.annotation):
        choices.append(None)
    if option.annotation is bool:
        choices = [True, False]
    choices += SPECIAL.get(key, [])
    for value in bounds(option).values():
        choices += [value, value - 1, value + 1, -value, math.nextafter(value, 0)]
    if option.annotation in (int, float):
        choices += [1, 2, 3, 1.5, 0.3]
    return rng.choice(choices) if choices else any_value(rng)


def read(key: str, value, rng: random.Random, folder):
    """Return key and value as one of the doors hands them on: Python, `--set`, or a file."""
    door = rng.randrange(3)
    try:
        if door == 1:
            return option(f"{key}={_toml(value)}")
        if door == 2:
            (folder / "c.toml").write_text(f"value = {_toml(value)}", encoding="utf-8")
            return key, tomllib.loads((folder / "c.toml").read_text(encoding="utf-8"))["value"]
    except (ValueError, RecursionError):  # TOML cannot hold it
        pass
    return key, value


@pytest.mark.soak(500, 20_000)
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


# More of these only takes longer, or more memory in proportion.
WORK = {
    "training.rounds": 3,
    "training.epochs": 3,
    "context.steps": 12,
    "proxy.examples": 40,
    "evaluation.beams": 4,
}


class OneRound(Silent):
    """Ends a run after its first round."""

    def measured(self, record):
        if record.round:
            raise Killed


class Kept(logging.Handler):
    """Keeps what a client's failure was, if it was none of memory or of diverged numbers."""

    def __init__(self):
        super().__init__()
        self.errors = []

    def emit(self, record):
        if record.exc_info and isinstance(record.exc_info[1], Exception):
            self.errors.append(record.exc_info[1])


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Options of a tiny run for every kind of task."""
    folder = tmp_path_factory.mktemp("any-option")
    models = {
        "generation": save_tiny(folder / "gpt2"),
        "classification": save_tiny(folder / "bert", "classification"),
    }
    found = {}
    for kind in ("generation", "classification", "regression", "text"):
        table = write_table(folder / f"{kind}.jsonl", kind)
        changes = {"data.task": "table", "data.train": str(table), "clients.by": "town"}
        if kind == "text":
            changes |= {"clients.partition": "iid", "clients.by": "", "clients.min_examples": 1}
        model = models["generation" if kind in ("generation", "text") else "classification"]
        found[kind] = options(model) | changes
    return found


QUICK = [key for key in OPTIONS if key not in ("engine.threads", "engine.workers")]  # processes


def usable(key: str, rng: random.Random):
    """Return a value that is within bounds, extremes among them, and quick."""
    while True:
        value = near(key, rng)
        if isinstance(value, int | float) and value > WORK.get(key, math.inf):
            continue
        if key.endswith(("by", "task", "columns")) and rng.random() < 0.7:
            continue
        with contextlib.suppress(ConfigError):
            load_config(None, {key: value, "clients.memory": ["1GB"]})
            return value
        if rng.random() < 0.1:
            return value


def begin(given, folder):
    """Prepare a run and do its first round; return whether it got there."""
    kept = Kept()
    logging.getLogger("leff.client").addHandler(kept)
    try:
        config = load_config(None, given)
        prepare(config, RunFolder.new(folder, config)).run(OneRound())
    except Killed:
        return True
    except LeffError as error:
        said(error)
        return False
    finally:
        logging.getLogger("leff.client").removeHandler(kept)
        if kept.errors:
            raise kept.errors[0]
    raise AssertionError("the run had no round")


@pytest.mark.soak(4, 1000)
def test_what_is_taken_runs_or_is_refused_in_a_line(
    count, tmp_path, kinds, quick_runs, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("LEFF_DATA", raising=False)
    for case in range(count):
        rng = random.Random(f"run {case}")
        chosen = rng.sample(QUICK, rng.randint(1, 4))
        given = {key: usable(key, rng) for key in chosen}
        kind = rng.choice([*kinds])
        try:
            with guarded():
                begin(kinds[kind] | given, tmp_path / str(case))
        except BaseException as error:
            raise AssertionError(f"case {case}, {kind}: {shown(given)}") from error
