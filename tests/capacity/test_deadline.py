"""What a device short of time is given: fewer steps first, then a cheaper context or block."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny_models import LAYERS, tiny

from leff.capacity.candidates import assumed_errors, candidates
from leff.capacity.choose import choose as choose_in_time
from leff.capacity.clock import round_seconds
from leff.capacity.deadline import TimeLimit, candidate_needs
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
