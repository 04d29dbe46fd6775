"""Methods of one's own: registered by a call or by an installed package, then used as any other."""

import importlib.util
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from tiny_runs import options, save_tiny, write_table

import leff
from leff.errors import ConfigError
from leff.methods import registry
from leff.methods.registry import MethodSpec, methods, register, spec_of, users_of
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.runs.plans import check_used, planned
from leff.runs.unused import unused_options

EXAMPLE = Path(leff.__file__).parent / "examples" / "fedprox.py"


@pytest.fixture
def table(monkeypatch):
    """A table of methods of this test's own."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    return registry._METHODS


@pytest.fixture
def example(table, monkeypatch):
    spec = importlib.util.spec_from_file_location("fedprox_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fedprox_example", module)
    spec.loader.exec_module(module)
    return module


def entry(name, value):
    return EntryPoint(name, value, registry.GROUP)


def test_the_example_is_short_and_is_fedavg_with_a_pull(example, tmp_path, quick_runs):
    """To the bit: the option `training.proximal` does the same for FedAvg."""
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    register(example.SPEC)
    model, table = (
        save_tiny(tmp_path / "model"),
        write_table(tmp_path / "train.jsonl", "generation"),
    )
    given = options(model, **{"data.task": "table", "data.train": str(table), "training.rounds": 1})
    own = leff.run(out=tmp_path / "own", **{**given, "method.name": "fedprox"})
    pulled = {"method.name": "fedavg", "training.proximal": 0.1}
    known = leff.run(out=tmp_path / "known", **{**given, **pulled})
    assert own.after == known.after
    assert (own.model / "model.safetensors").read_bytes() == (
        known.model / "model.safetensors"
    ).read_bytes()
    plain = leff.run(out=tmp_path / "plain", **{**given, "method.name": "fedavg"})
    assert (own.model / "model.safetensors").read_bytes() != (
        plain.model / "model.safetensors"
    ).read_bytes()


def test_a_method_of_ones_own_has_plans(example):
    register(example.SPEC)
    plan = planned("gpt2", "fedprox", RunConfig())
    assert plan["method"] == "fedprox"
    assert (
        plan["trainable_parameters"]
        == planned("gpt2", "fedavg", RunConfig())["trainable_parameters"]
    )


def test_an_installed_package_adds_a_method(example, monkeypatch):
    found = [entry("fedprox", "fedprox_example:SPEC")]
    monkeypatch.setattr(registry, "installed", lambda: found)
    assert spec_of("fedprox") is example.SPEC and "fedprox" in methods()
    config = load_config(None, {"method.name": "fedprox", "method.momentum": 0.5})
    assert unused_options(config) == ["method.momentum"]


def test_a_method_of_ones_own_that_trains_blocks_has_the_options_of_blocks(table, caplog):
    caplog.set_level("INFO", "leff")
    register(replace(spec_of("leff"), name="mine"))
    changes = {"method.name": "mine", "method.sampling": "fixed", "method.exploration": 0.5}
    assert unused_options(load_config(None, changes)) == ["method.exploration"]
    check_used("mine", ["layers", "context.bits"])
    assert not caplog.messages
    with pytest.raises(ConfigError, match="base-bits means nothing to mine"):
        check_used("mine", ["base_bits"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mine", "no_such_module_here:SPEC", "cannot be loaded"),
        ("mine", "fedprox_example:FedProx", "is no MethodSpec"),
        ("mine", "fedprox_example:SPEC", "is no MethodSpec with the name 'mine'"),
    ],
)
def test_a_package_whose_method_is_broken_is_named(example, monkeypatch, name, value, words):
    monkeypatch.setattr(registry, "installed", lambda: [entry(name, value)])
    with pytest.raises(ConfigError, match=words):
        spec_of("mine")
    assert spec_of("leff").name == "leff"  # known methods are there all the same


def test_a_name_is_taken_once(table):
    with pytest.raises(ConfigError, match="'fedavg' already; give yours another name"):
        register(MethodSpec("fedavg", lambda given: None, lambda model, setup: []))


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match="no method 'fedlra'; did you mean 'fedlora'"):
        spec_of("fedlra")


def test_who_uses_an_option():
    assert users_of("method.base_bits") == ("fedlora", "flexlora")
    assert users_of("clients.ranks") == ("flora", "flexlora")
    assert users_of("context.bits") == ("leff",) and users_of("training.rounds") == ()
