"""What a device short of time is given: fewer steps first, then a cheaper context or block."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import LAYERS, tiny

from leff.capacity.candidates import assumed_errors, candidates
from leff.capacity.choose import choose as choose_in_time
from leff.capacity.clock import round_seconds
from leff.capacity.deadline import TimeLimit, candidate_needs, steps_of_full
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.methods.setup import ClientSetup
from leff.wire.messages import Capacity, Device, Step

KIND = "generation"
DEVICE = Device("phone", 10**9, 1e6, 1e6, 1e6)
ASKED = ClientSetup(step=Step(batch_size=4), length=12)
EXAMPLES = 40  # ten steps
PEAKS = SimpleNamespace(estimate=lambda c: c.state_bytes, exact=lambda c: c.state_bytes)


@pytest.fixture(scope="module")
def found():
    sizes = model_sizes(tiny("gpt2", KIND), KIND)
    every = candidates(sizes, ASKED)
    return every, candidate_needs(sizes, every, ASKED)


def choose(found, seconds, share=0.25, device=DEVICE):
    every, needs = found
    limit = TimeLimit(seconds, share, needs, 1.0, 4)
    report = Capacity(0, 1, EXAMPLES, device.memory_bytes, None, device)
    chosen = choose_in_time(every, assumed_errors, report, limit, PEAKS)
    if seconds is not None:
        assert round_seconds(needs[chosen.candidate], device, chosen.steps).total <= seconds
        assert chosen.steps >= share * chosen.wanted
    return chosen


def at(found, layers, text, steps):
    every, needs = found
    (candidate,) = [c for c in every if c.layers == layers and str(c.setting) == text]
    return round_seconds(needs[candidate], DEVICE, steps).total


def test_without_a_deadline_memory_alone_decides(found):
    chosen = choose(found, None)
    assert (chosen.candidate.layers, chosen.steps, chosen.wanted) == (LAYERS, 10, 10)
    little = replace(DEVICE, memory_bytes=min(c.state_bytes for c in found[0]))
    assert choose(found, None, device=little).candidate.layers == 1


def test_steps_shrink_before_the_context_does(found):
    """Three of ten steps among 8-bit layers are in time, so nothing distilled is given."""
    distilled, whole = (at(found, 1, f"{text}, 8 bits", 4) for text in ("distil 0.5", "quantise"))
    assert distilled < whole
    seconds = (distilled + whole) / 2
    chosen = choose(found, seconds)
    assert chosen.candidate.setting.keeps_all and chosen.steps == 3
    demanding = choose(found, seconds, share=0.35)
    assert not demanding.candidate.setting.keeps_all and demanding.steps >= 4


def test_the_most_layer_steps_win(found):
    every, needs = found
    for seconds in (at(found, 1, "quantise, 8 bits", n) for n in (4, 7, 10)):
        chosen = choose(found, seconds)
        limit = TimeLimit(seconds, 0.25, needs, 1.0, 4)
        others = [c for c in every if c.setting == chosen.candidate.setting]
        most = max(c.layers * limit.steps(c, DEVICE, EXAMPLES) for c in others)
        assert chosen.candidate.layers * chosen.steps == most > 0


def test_more_time_trains_no_less(found):
    least = at(found, 1, "quantise, 8 bits", 3)
    work = [
        chosen.candidate.layers * chosen.steps
        for chosen in (choose(found, least * factor) for factor in (1, 1.5, 2, 4, 8))
    ]
    assert work == sorted(work) and work[-1] == LAYERS * 10


def test_too_little_time_is_told_the_least(found):
    with pytest.raises(ConfigError, match=r"25% of its steps within 0.001 s on a phone; the least"):
        choose(found, 0.001)
    with pytest.raises(ConfigError, match="within 10 bytes; the least that would do is"):
        choose(found, 5.0, device=replace(DEVICE, memory_bytes=10))


# As many operations as full training


@given(st.integers(0, 99), st.integers(1, 10**9), st.integers(1, 10**9))
def test_steps_take_the_operations_of_full_steps_and_no_more(steps, flops, full):
    found = steps_of_full(steps, flops, full)
    assert found == steps_of_full(found, flops, flops)
    if found > 1:
        assert found * flops <= steps * full < (found + 1) * flops
    assert found >= min(steps, 1) and steps_of_full(steps, flops, 0) == steps


def test_a_cheaper_step_is_done_more_often_and_a_deadline_still_holds(found):
    every, needs = found
    sizes = model_sizes(tiny("gpt2", KIND), KIND)
    full = sizes.full_step_flops(ASKED.step.batch_size, ASKED.length)
    limit = TimeLimit(None, 0.25, needs, 1.0, 4, full)
    whole = [c for c in every if c.layers == LAYERS and not c.checkpointing]
    small = [c for c in every if c.layers == 1 and c.setting.keeps_all]
    assert {limit.steps(c, DEVICE, EXAMPLES) for c in whole} == {10}
    for candidate in small:
        steps = limit.steps(candidate, DEVICE, EXAMPLES)
        assert 10 < steps == 10 * full // candidate.step_flops
        seconds = round_seconds(needs[candidate], DEVICE, 12).total
        assert replace(limit, seconds=seconds).steps(candidate, DEVICE, EXAMPLES) in (12, steps)
