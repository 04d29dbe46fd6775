"""Variants of a step: their order, and the first that fits found in few looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.capacity.leaner_steps import first_that_fits, smallest, variants
from leff.wire.messages import Step

FOUR = Step(batch_size=4)


def test_variants_are_the_plain_one_first():
    found = [(step.accumulation, step.checkpointing) for step in variants(FOUR)]
    assert found == [(1, False), (2, False), (4, False), (1, True), (2, True), (4, True)]
    assert smallest(FOUR) == Step(4, 4, True)


def test_none_is_plainer_than_what_is_asked_for():
    assert variants(Step(batch_size=6, accumulation=2)) == [
        Step(6, parts, flag) for flag in (False, True) for parts in (2, 3, 6)
    ]
    again = Step(batch_size=6, accumulation=3, checkpointing=True)
    assert variants(again) == [Step(6, 3, True), Step(6, 6, True)]


def test_nothing_else_of_the_step_changes():
    asked = Step(4, precision="bfloat16", optimizer="adamw8bit", proximal=0.1)
    kept = {(s.batch_size, s.precision, s.optimizer, s.proximal) for s in variants(asked)}
    assert kept == {(4, "bfloat16", "adamw8bit", 0.1)}


HALVES = st.tuples(*[st.lists(st.integers(1, 99), min_size=5, max_size=5)] * 2)


@given(st.integers(1, 99), HALVES, st.integers(0, 100))
def test_the_first_that_fits(plain, halves, memory):
    """More parts hold no more, but for the step from whole to two."""
    asked = Step(batch_size=16)
    peaks = [plain, *sorted(halves[0], reverse=True)[1:], *sorted(halves[1], reverse=True)]
    by_step, looks = dict(zip(variants(asked), peaks, strict=True)), set()
    found = first_that_fits(asked, lambda step: looks.add(step) or by_step[step], memory)
    assert found == next((step for step in by_step if by_step[step] <= memory), None)
    assert len(looks) <= 7


@pytest.mark.parametrize("asked", [FOUR, Step(batch_size=4, accumulation=2)])
def test_without_a_limit_nothing_is_looked_at(asked):
    assert first_that_fits(asked, lambda _: pytest.fail("looked"), None) == variants(asked)[0]
