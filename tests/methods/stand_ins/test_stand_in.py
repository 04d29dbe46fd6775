"""How the layers outside a block are shared between prefix and suffix, and which they answer to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leff.methods.stand_ins import Context, Recipe, Span, make_context
from leff.methods.stand_ins.error import relative_square
from leff.methods.stand_ins.stand_in import attention_mask, compressed_layers

RATES = st.integers(1, 100).map(lambda percent: percent / 100)


@st.composite
def placed_blocks(draw):
    layers = draw(st.integers(1, 48))
    start = draw(st.integers(0, layers - 1))
    return range(start, draw(st.integers(start + 1, layers))), layers


@given(placed_blocks(), RATES)
def test_equal_recipes_share_the_budget(case, rate):
    block, layers = case
    spans = Context(Recipe(rate), Recipe(rate)).spans(block, layers)
    before, after = block.start, layers - block.stop
    budget = compressed_layers(before + after, rate)
    assert sum(span.layers for span in spans) == budget
    assert all(0 <= span.layers <= span.stop - span.start for span in spans)
    covered = [i for span in spans for i in range(span.start, span.stop)]
    assert sorted(covered + list(block)) == list(range(layers))
    assert [s.start for s in spans] == sorted(s.start for s in spans)
    if before and after and budget >= 2:
        assert all(span.layers >= 1 for span in spans)
    if before and after:  # in proportion, give or take the layer that rounding moves
        assert abs(spans[0].layers - budget * before / (before + after)) <= 1


@given(placed_blocks(), RATES, RATES)
def test_different_recipes_have_a_budget_each(case, one, two):
    block, layers = case
    spans = Context(Recipe(one, bits=8), Recipe(two, True, 4)).spans(block, layers)
    for span in spans:
        before = span.stop <= block.start
        assert span.layers == compressed_layers(span.stop - span.start, one if before else two)
        assert (span.trained, span.bits) == ((False, 8) if before else (True, 4))


@given(st.integers(0, 30), st.integers(1, 40), st.data(), st.booleans(), st.booleans())
def test_units_tile_a_span_exactly(start, length, data, trained, whole):
    span = Span(start, start + length, data.draw(st.integers(1, length)), trained, 8)
    units = span.units(whole)
    covered = [layer for unit in units for layer in range(unit.start, unit.stop)]
    assert covered == list(range(span.start, span.stop))
    assert tuple(source for unit in units for source in unit.sources) == span.sources
    assert all(unit.bits == 8 for unit in units)
    if whole and trained and span.layers < length:
        assert units == (span,)
    else:
        assert all(unit.layers == 1 for unit in units)
        assert all(unit.trained == (trained and unit.stop - unit.start > 1) for unit in units)


def test_a_span_of_no_layers_has_no_units():
    assert Span(2, 5, 0, trained=True).units() == Span(2, 5, 0, trained=True).units(True) == ()


@given(st.integers(0, 30), st.integers(1, 40), st.data())
def test_sources_are_evenly_spread(start, length, data):
    layers = data.draw(st.integers(1, length))
    sources = Span(start, start + length, layers).sources
    assert len(sources) == layers
    assert sources[-1] == start + length - 1
    assert all(start <= source < start + length for source in sources)
    gaps = [b - a for a, b in zip((start - 1, *sources), sources, strict=False)]
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1  # strictly increasing, evenly


@given(st.integers(0, 30), st.integers(0, 40))
def test_a_span_at_full_length_answers_to_itself(start, length):
    assert Span(start, start + length, length).sources == tuple(range(start, start + length))


def test_one_layer_and_no_layer():
    assert Span(2, 7, 1).sources == (6,)
    assert Span(2, 7, 0).sources == ()


def test_examples():
    half = make_context("drop", rate=0.5)
    assert half.spans(range(3, 5), 8) == (Span(0, 3, 2), Span(5, 8, 1))
    assert half.spans(range(0, 2), 8) == (Span(2, 8, 3),)
    assert half.spans(range(6, 8), 8) == (Span(0, 6, 3),)
    assert half.spans(range(8), 8) == ()
    assert make_context("drop", rate=0.25).spans(range(1, 2), 8) == (Span(0, 1, 1), Span(2, 8, 1))
    assert Span(0, 6, 3).sources == (1, 3, 5)
    assert Span(0, 5, 2, True).units() == (Span(0, 3, 1, True), Span(3, 5, 1, True))


@given(st.integers(0, 200), st.integers(1, 100))
def test_compressed_layers_is_the_ceiling(unselected, percent):
    assert compressed_layers(unselected, percent / 100) == -(-unselected * percent // 100)


def test_compressed_layers_where_floating_point_is_a_hair_above():
    assert math.ceil(50 * 0.14) == 8 and compressed_layers(50, 0.14) == 7


def test_relative_square_leaves_padding_out():
    wanted = torch.tensor([[[3.0, 4.0], [9.0, 9.0]]])
    actual = torch.tensor([[[3.0, 5.0], [float(7), 100.0]]])
    mask = torch.tensor([[1, 0]])
    assert float(relative_square(actual, wanted, mask)) == pytest.approx(1 / 25)


def test_a_batch_without_a_mask_has_no_padding():
    assert attention_mask({"input_ids": torch.zeros(2, 3)}).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_contexts_by_name():
    assert make_context("drop", rate=0.2) == Context(Recipe(0.2), Recipe(0.2))
    assert make_context("quantise", rate=0.2, bits=8) == Context(Recipe(bits=8), Recipe(bits=8))
    assert make_context("distil", rate=0.2).suffix == Recipe(0.2, trained=True)
    mixed = make_context("quantise", rate=0.2, bits=4, suffix="distil")
    assert mixed == Context(Recipe(1.0, False, 4), Recipe(0.2, True, 4))


@pytest.mark.parametrize("names", [("prune", ""), ("drop", "prune")])
def test_an_unknown_context(names):
    with pytest.raises(ValueError, match="no context 'prune'"):
        make_context(names[0], suffix=names[1])
