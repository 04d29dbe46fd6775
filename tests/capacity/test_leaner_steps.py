"""Ways to do a step: their order, and the first that fits found in few looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.capacity.footprint import Choice
from leff.capacity.leaner_steps import Way, first_that_fits, smallest, ways

FOUR = Choice(batch_size=4)


def test_ways_are_the_plain_one_first():
    found = [(way.accumulation, way.checkpointing) for way in ways(FOUR)]
    assert found == [(1, False), (2, False), (4, False), (1, True), (2, True), (4, True)]
    assert smallest(FOUR) == Way(4, True)


def test_none_is_plainer_than_what_is_asked_for():
    assert ways(Choice(batch_size=6, accumulation=2)) == [
        Way(parts, flag) for flag in (False, True) for parts in (2, 3, 6)
    ]
    again = Choice(batch_size=6, accumulation=3, checkpointing=True)
    assert ways(again) == [Way(3, True), Way(6, True)]


HALVES = st.tuples(*[st.lists(st.integers(1, 99), min_size=5, max_size=5)] * 2)


@given(st.integers(1, 99), HALVES, st.integers(0, 100))
def test_the_first_that_fits(plain, halves, memory):
    """More parts hold no more, but for the step from whole to two."""
    asked = Choice(batch_size=16)
    peaks = [plain, *sorted(halves[0], reverse=True)[1:], *sorted(halves[1], reverse=True)]
    by_way, looks = dict(zip(ways(asked), peaks, strict=True)), set()
    found = first_that_fits(asked, lambda way: looks.add(way) or by_way[way], memory)
    assert found == next((way for way in by_way if by_way[way] <= memory), None)
    assert len(looks) <= 7


@pytest.mark.parametrize("asked", [FOUR, Choice(batch_size=4, accumulation=2)])
def test_without_a_limit_nothing_is_looked_at(asked):
    assert first_that_fits(asked, lambda _: pytest.fail("looked"), None) == ways(asked)[0]
