"""Measurements: each wrong field is that client's refusal, in words and without its numbers."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.wire.checks import ExpectedMeasure, checked_measure
from leff.wire.messages import OFFSETS, Measure

COUNTED = ExpectedMeasure(3, 7, "classification", examples=5, classes=2, labels=160)
SCORED = ExpectedMeasure(3, 7, "regression", examples=2, classes=0, labels=64)
WRITTEN = ExpectedMeasure(3, 7, "text", examples=2, classes=0, labels=64)
CURVE = tuple((1 + k) / (1 + len(OFFSETS)) for k in range(len(OFFSETS)))
GOOD = {
    "classification": (COUNTED, Measure(3, 7, 5, 2.5, 5, ((2, 1), (0, 2)), seconds=0.1)),
    "regression": (SCORED, Measure(3, 7, 2, 0.5, 2, (), (2.0, 3.0, 4.0, 5.0, 10.0, 7.0))),
    "text": (WRITTEN, Measure(3, 7, 2, 80.0, 60)),
    "probe": (
        replace(COUNTED, examples=40, probe=16),
        Measure(3, 7, 40, weight=16, answers=(CURVE, CURVE), labels=(0.25, 0.75)),
    ),
    "regression probe": (
        replace(SCORED, probe=16),
        Measure(3, 7, 2, weight=2, answers=((-3.5,),), labels=(2.5,)),
    ),
}
NAN, INF, HUGE = math.nan, math.inf, 10**400
NO_NUMBER = ("3", b"3", [3], {}, True, NAN, INF, HUGE, object())


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_measurement_is_taken_as_it_is(kind):
    expected, good = GOOD[kind]
    assert checked_measure(good, expected) == good
    diverged = replace(good, loss=None, confusion=(), moments=(), answers=(), labels=())
    assert checked_measure(diverged, expected) == diverged


def test_a_clients_own_failure_has_no_figures():
    expected, good = GOOD["text"]
    taken = checked_measure(replace(good, failure=" gone\n\x00 "), expected)
    assert taken == Measure(3, 7, 2, failure="gone ?")
    assert checked_measure(replace(good, failure=""), expected).failure == "without a reason"


WRONG = {
    "classification": {
        "examples": (*NO_NUMBER, None, 4, 0, -1, 5.0),
        "loss": (*NO_NUMBER, -0.1, 1e31),
        "weight": (*NO_NUMBER, None, 4, 6, 5.0),
        "confusion": (
            *NO_NUMBER, None, (), ((5,),), ((2, 1), (0, 1)), ((2, 1), (0, 3)), [[2, 1], [0, 2]],
            ((2, 1), [0, 2]), ((3, -1), (1, 2)), ((2.0, 1), (0, 2)), ((True, 2), (0, 2)),
            ((2, 1, 0), (0, 2, 0)), ((2, 1), (0, 2), (0, 0)), ((HUGE, 1), (0, 2)),
        ),
        "moments": (*NO_NUMBER, None, (5.0,) * 6),
        "seconds": (*NO_NUMBER, None, -1),
        "failure": (5, b"gone", ["gone"], True),
        "answers": ((CURVE, CURVE), [], None),
        "labels": ((0.5, 0.5), [], None),
    },
    "regression": {
        "confusion": (((1, 0), (0, 1)), ((),)),
        "moments": (
            *NO_NUMBER, None, (), (2.0, 3.0), (2.0, 3.0, 4.0, 5.0, 10.0, NAN),
            (3.0, 3.0, 4.0, 5.0, 10.0, 7.0), (2.0, 4.0, 4.0, 5.0, 10.0, 7.0),
            (2.0, 3.0, 4.0, 5.0, 7.0, 7.0), (2.0, 3.0, 4.0, 5.0, 10.0, 7.2),
            [2.0, 3.0, 4.0, 5.0, 10.0, 7.0], (2.0, 3.0, 4.0, 5.0, 10.0, INF),
        ),
        "weight": (1, 3),
    },
    "text": {"weight": (0, 65, -1), "confusion": (((2,),),), "moments": ((2.0,) * 6,)},
    "probe": {
        "examples": (39, 16),
        "weight": (*NO_NUMBER, None, 15, 40, 16.0),
        "loss": (0.0, 2.5, NAN),
        "confusion": (((9, 0), (0, 7)), [], None),
        "moments": ((2.0,) * 6, [], None),
        "answers": (
            *NO_NUMBER, None, (), (CURVE,), (CURVE, CURVE[1:]), (CURVE, (NAN, *CURVE[1:])),
            (CURVE, ("a", *CURVE[1:])), [CURVE, CURVE], (CURVE, list(CURVE)),
            (CURVE, (1.5, *CURVE[1:])), (CURVE, (-0.5, *CURVE[1:])), (CURVE, (HUGE, *CURVE[1:])),
        ),
        "labels": (
            *NO_NUMBER, None, (), (1.0,), (0.5, 0.6), (-0.5, 1.5), (NAN, 1.0), [0.5, 0.5],
        ),
    },
    "regression probe": {
        "answers": (
            ((NAN,),), ((INF,),), ((1.0, 2.0),), ((HUGE,),), (("1",),), 3.0, ((True,),), (1.0,),
            ((1e13,),),
        ),
        "labels": ((), (NAN,), (1.0, 2.0), ("1",), 3.0, (1e13,)),
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in WRONG for name in WRONG[kind]])
def test_a_wrong_field_is_a_refusal_without_the_clients_numbers(kind, name):
    expected, good = GOOD[kind]
    for value in WRONG[kind][name]:
        taken = checked_measure(replace(good, **{name: value}), expected)
        assert taken.failure and taken.failure.isprintable() and len(taken.failure) <= 200, value
        assert taken == Measure(3, 7, expected.examples, failure=taken.failure)


def test_a_loss_that_is_missing_comes_without_other_sums():
    for kind in ("classification", "regression"):
        expected, good = GOOD[kind]
        assert "without a loss" in (
            checked_measure(replace(good, loss=None), expected).failure or ""
        )


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=6).map(tuple) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(GOOD)),
    st.dictionaries(st.sampled_from(["examples", "loss", "weight", "confusion", "moments",
                                     "answers", "labels", "seconds", "failure"]),
                    ANY, max_size=3),
)  # fmt: skip
def test_whatever_a_client_says_is_taken_whole_or_refused(kind, changes):
    """Nothing raises, and what is taken has figures that are numbers in their range."""
    from leff.methods.level import head_step
    from leff.tasks.metrics.sums import figures

    expected, good = GOOD[kind]
    taken = checked_measure(replace(good, **changes), expected)
    assert (taken.round, taken.client, taken.examples) == (3, 7, expected.examples)
    if taken.failure is None and expected.probe:
        step = head_step([taken], {7: 5}, expected.classes)
        assert step is None or step.isfinite().all()
    elif taken.failure is None:
        found = figures(kind, taken, expected.classes)
        assert all(isinstance(value, float | int) for value in found.values())
        assert not abs(found.get("pearson", 0.0)) > 1 and not abs(found.get("matthews", 0.0)) > 1
