"""Choosing: the grid of candidates, their measured errors, and the choice within budgets."""

from dataclasses import replace

import pytest
from small_rounds import proxy
from tiny_models import LAYERS, tiny

from leff.capacity.candidates import (
    ASSUMED_ERRORS,
    Candidate,
    Setting,
    assumed_errors,
    candidates,
    measure,
    settings,
    with_checkpointing,
)
from leff.capacity.footprint import footprint, worst_footprint
from leff.capacity.sizes import model_sizes
from leff.methods.setup import ClientSetup, block_layouts, places
from leff.methods.stand_ins import Bank, Distillation, block_errors
from leff.runs.options import ContextConfig
from leff.wire.messages import Step

KIND = "generation"
EIGHT, HALF = Setting("quantise", bits=8), Setting("distil", 0.5, 8)


class CountingBank(Bank):
    """Remembers what it was asked for."""

    def make(self, model, spans, batches, decided):
        self.asked = [*getattr(self, "asked", []), list(spans)]
        return super().make(model, spans, batches, decided)


@pytest.fixture
def model():
    return tiny("gpt2", KIND)


def bank():
    return CountingBank(Distillation(4, 1e-3, 0.1))


def test_the_grid_is_every_block_size_in_every_context(model):
    sizes = model_sizes(model, KIND)
    asked = ClientSetup(embedding_bits=16, step=Step(batch_size=3), length=5)
    found = candidates(sizes, asked)
    assert len({(c.layers, c.setting) for c in found}) == len(found)
    for candidate in found:
        setup = replace(asked, layers=candidate.layers, context=candidate.setting.context)
        every = [footprint(sizes, layout, setup) for layout in block_layouts(setup, LAYERS)]
        worst = worst_footprint(every)
        assert candidate.state_bytes == worst.state_bytes
        assert candidate.step_flops == worst.step_flops
    by_size = {n: [c.setting for c in found if c.layers == n] for n in range(1, LAYERS + 1)}
    assert by_size[1] == settings(LAYERS)
    # one layer is left out: half of it is all of it, and in the same bits it is the same client
    assert [(s.name, s.bits) for s in by_size[3]] == [("quantise", b) for b in (32, 8, 4)]
    assert by_size[LAYERS] == [Setting("quantise")]  # nothing is left out
    assert {c.layers for c in candidates(sizes, block_sizes=[2])} == {2}


def test_the_same_ones_checkpointed_come_after():
    sizes = model_sizes(tiny("gpt2", KIND), KIND)
    checkpointed = ClientSetup(step=Step(checkpointing=True))
    plain, again = candidates(sizes), candidates(sizes, checkpointed)
    assert with_checkpointing(sizes, ClientSetup()) == [*plain, *again]
    assert with_checkpointing(sizes, checkpointed) == again
    for one, two in zip(plain, again, strict=True):
        assert (one.layers, one.setting, one.state_bytes) == (
            two.layers,
            two.setting,
            two.state_bytes,
        )
        assert two.checkpointing and two.step_flops > one.step_flops


def test_a_quarter_is_for_deep_models():
    assert {s.rate for s in settings(7)} == {1.0, 0.5}
    assert {s.rate for s in settings(8)} == {1.0, 0.5, 0.25}


@pytest.mark.parametrize("setting", settings(12), ids=str)
def test_a_setting_is_a_runs_options(setting):
    options = {key.removeprefix("context."): v for key, v in setting.options().items()}
    given = ContextConfig(**options)
    assert (given.name, given.bits, given.suffix) == (setting.name, setting.bits, setting.suffix)
    assert given.rate == setting.rate or setting.rate == 1


def test_errors_are_the_mean_over_all_places(model):
    found = [Candidate(n, s, 0, 0) for n in (1, 3) for s in (EIGHT, HALF, Setting("quantise"))]
    batches = proxy(KIND)
    errors = measure(model, bank(), found, batches, {})
    for candidate in found:
        context, blocks = candidate.setting.context, places(candidate.layers, LAYERS)
        spans = {span for block in blocks for span in context.spans(block, LAYERS)}
        made = bank().make(model, sorted(spans), batches, {})  # in its own bits from the start
        each = block_errors(model, context, made, blocks, batches[0])
        assert len(each) == LAYERS - candidate.layers + 1
        assert errors[candidate] == sum(each.values()) / len(each)
    exact, small, large = errors[found[2]], errors[found[0]], errors[found[1]]
    assert exact < 1e-6 < small < large


def test_all_come_from_one_bank_and_each_student_is_trained_once(model):
    found = candidates(model_sizes(model, KIND), block_sizes=[1, LAYERS])
    counting = bank()
    measure(model, counting, found, proxy(KIND), {})
    (spans,) = counting.asked
    assert len(set(spans)) == len(spans)
    assert {span.bits for span in spans if span.trained} == {32, 8, 4}
    units = {(u.start, u.stop) for span in spans for u in span.units() if u.trained}
    kept = [key for key in counting.state() if key.endswith("/about")]
    assert len(kept) == len(units)  # one student, whatever bits it is then sent in


def test_training_all_layers_needs_no_context(model):
    (whole,) = candidates(model_sizes(model, KIND), block_sizes=[LAYERS])
    assert measure(model, bank(), [whole], proxy(KIND), {}) == {whole: 0.0}


def test_assumed_errors_are_for_every_setting_bits_first(model):
    assert set(ASSUMED_ERRORS) == set(settings(12))
    order = sorted(ASSUMED_ERRORS, key=ASSUMED_ERRORS.__getitem__)
    ways = [(s.name, s.suffix) for s in order]
    ranks = [("quantise", ""), ("quantise", "distil"), ("distil", ""), ("drop", "")]
    assert [ranks.index(way) for way in ways] == sorted(ranks.index(way) for way in ways)
    assert [s.bits for s in order[:3]] == [32, 8, 4]
    found = candidates(model_sizes(model, KIND))
    assert assumed_errors(found).keys() == set(found)
