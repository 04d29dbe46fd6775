"""Who gets which block size and context: as configured, and by what a device has room for."""

import math
from types import SimpleNamespace

import pytest
import torch
from small_rounds import proxy
from tiny_models import LAYERS, tiny

from leff.capacity.candidates import candidates
from leff.capacity.choose import ByBudget
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.methods.assignment import AsReported, Assigned
from leff.methods.stand_ins import Bank, Distillation, make_context
from leff.wire.messages import Capacity

KIND = "generation"
PEAKS = SimpleNamespace(estimate=lambda c: c.state_bytes, exact=lambda c: c.state_bytes)


@pytest.fixture
def model():
    return tiny("gpt2", KIND)


@pytest.fixture
def found(model):
    return candidates(model_sizes(model, KIND))


def auto(found, steps=1):
    return ByBudget(found, Bank(Distillation(steps, 1e-3, 0.0)), proxy(KIND), PEAKS)


def report(client, memory=None, flops=None):
    return Capacity(client, 1, 5, memory, flops)


def bytes_of(found, layers, text):
    return next(c.state_bytes for c in found if c.layers == layers and str(c.setting) == text)


def test_fixed_is_what_clients_report_in_one_context(model):
    context = make_context("quantise", bits=8)
    fits = AsReported(context).assign(model, [Capacity(3, 2, 5), Capacity(1, 4, 5)])
    assert fits == {3: Assigned(2, context), 1: Assigned(4, context)}


def test_without_a_limit_everything_trains(model, found):
    assert auto(found).assign(model, [report(0)])[0].layers == LAYERS


@pytest.mark.parametrize(
    ("layers", "text", "given"), [(1, "quantise, 8 bits", 1), (3, "quantise, 4 bits", 2)]
)
def test_each_client_stays_within_its_memory(model, found, layers, text, given):
    """Room for three layers in 4 bits is room for two in 8, which are nearer to the full model."""
    budget = bytes_of(found, layers, text)
    fit = auto(found).assign(model, [report(0, budget), report(1)])[0]
    taken = next(c for c in found if c.layers == fit.layers and c.setting.context == fit.context)
    assert taken.state_bytes <= budget and fit.layers == given


def test_students_are_trained_only_for_devices_without_room_for_all_layers(model, found):
    made = auto(found)
    made.assign(model, [report(0, bytes_of(found, 1, "quantise, 4 bits"))])
    assert not any(setting.name == "distil" for _, setting in made._errors)
    least = min(c.step_flops for c in found if c.setting.name != "quantise")
    fit = made.assign(model, [report(0, flops=least)])[0]
    assert fit.name.startswith(("distil", "drop"))
    assert any(setting.name == "distil" for _, setting in made._errors)


def test_a_budget_that_nothing_fits_is_told_the_least(model, found):
    least = min(c.state_bytes for c in found)
    with pytest.raises(ConfigError, match=f"the least that would do is {least:,}"):
        auto(found).assign(model, [report(0, least - 1)])


def test_errors_are_measured_once_and_survive_a_restart(model, found, monkeypatch):
    one, other = auto(found), auto(found)
    budget = [report(0, bytes_of(found, 2, "quantise, 4 bits"))]
    wanted = one.assign(model, budget)
    other.load_state(one.state())
    monkeypatch.setattr(
        "leff.capacity.choose.measure", lambda *_, **__: pytest.fail("measured again")
    )
    assert one.assign(model, budget) == other.assign(model, budget) == wanted
    values = one.state()["errors"]
    assert values.dtype == torch.float64 and len(values) == len(found)
    assert any(math.isnan(v) for v in values.tolist())
