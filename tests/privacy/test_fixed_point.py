"""Fixed point: the exact sum of rounded values, and nothing outside the range."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from leff.errors import SecureSumError
from leff.privacy.fixed_point import MOST_CLIENTS, FixedPoint

LARGEST_SUM = 2**31 - 1
CLIPS = st.floats(1e-20, 1e20)
CLIENTS = st.integers(1, MOST_CLIENTS)


@given(CLIPS, CLIENTS)
def test_the_scale_is_the_largest_that_fits(clip, clients):
    fixed = FixedPoint(clip, clients)
    assert math.frexp(fixed.scale)[0] == 0.5  # a power of two
    steps = round(Fraction(fixed.largest) * Fraction(fixed.scale))
    assert clients * steps <= LARGEST_SUM
    assert (
        clients * (2 * Fraction(fixed.largest) * Fraction(fixed.scale) + 1) > LARGEST_SUM - clients
    )
    assert 1 / (2 * fixed.scale) < clip * clients / 2**30


@given(CLIPS, CLIENTS, st.sampled_from([np.float32, np.float64]), st.sampled_from([1, -1]))
def test_the_largest_sum_stays_in_the_range(clip, clients, dtype, sign):
    fixed = FixedPoint(clip, clients)
    value = np.array([sign * clip], dtype=dtype)  # in float32 it may be rounded up
    (step,) = fixed.encode(value).view(np.int32)
    total = np.array([clients * int(step) % 2**32], dtype=np.uint32)
    assert fixed.decode(total)[0] == clients * int(step) / fixed.scale


@given(
    arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1, 1)),
    st.integers(1, 10**5),
    st.floats(1e-3, 1e3),
)
def test_rounding_adds_no_more_than_the_bound_says(values, clients, clip):
    fixed, norm = FixedPoint(clip, clients), float(np.linalg.norm(values))
    clipped = values * (clip / norm if norm else 0.0) * (1 - 1e-12)
    rounded = fixed.decode(fixed.encode(clipped))
    assert np.linalg.norm(rounded) <= fixed.bound(len(values))
    half_a_step = np.full(len(values), 0.5 / fixed.scale)
    assert np.linalg.norm(half_a_step) == pytest.approx(fixed.bound(len(values)) - clip, abs=1e-9)


@given(st.data(), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_sums_are_those_of_the_rounded_values(data, clients, dtype):
    fixed = FixedPoint(1.0, clients)
    width = np.dtype(dtype).itemsize * 8
    elements = st.floats(-1, 1, width=width)
    values = data.draw(arrays.arrays(dtype, (clients, 5), elements=elements))
    rounded = [[round(Fraction(float(v)) * Fraction(fixed.scale)) for v in row] for row in values]
    total = sum((fixed.encode(row) for row in values[1:]), fixed.encode(values[0]))
    assert total.dtype == np.uint32
    sums = fixed.decode(total)
    assert [Fraction(s) for s in sums] == [
        Fraction(sum(column), 1) / Fraction(fixed.scale) for column in zip(*rounded, strict=True)
    ]
    exact = values.astype(np.float64).sum(0)
    assert (np.abs(sums - exact) <= clients / (2 * fixed.scale) + 1e-12).all()


@given(st.floats(-1, 1), st.integers(1, 1000))
def test_one_value_is_off_by_half_a_step_at_most(value, clients):
    fixed = FixedPoint(1.0, clients)
    back = fixed.decode(fixed.encode(np.array([value])))[0]
    assert abs(Fraction(back) - Fraction(value)) <= Fraction(1) / (2 * Fraction(fixed.scale))


def test_shapes_stay_and_half_floats_are_taken():
    fixed = FixedPoint(1.0, 3)
    assert fixed.encode(np.zeros((2, 3), np.float16)).shape == (2, 3)
    assert fixed.encode(np.zeros(0, np.float32)).shape == (0,)
    np.testing.assert_array_equal(fixed.decode(fixed.encode(np.float16([0.5, -1]))), [0.5, -1])


@pytest.mark.parametrize("value", [1.01, -1.01, math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_value_out_of_range_is_named(value, dtype):
    values = np.array([0.5, value, 2.0], dtype=dtype)
    with pytest.raises(SecureSumError, match=r"value 1 is .* within ±1.0; clip the update"):
        FixedPoint(1.0, 8).encode(values)


def test_only_floats_are_taken():
    with pytest.raises(SecureSumError, match="must be floats, got int64"):
        FixedPoint(1.0, 8).encode(np.arange(3))


@pytest.mark.parametrize(
    ("clip", "clients", "words"),
    [
        *((clip, 8, "clip must be between") for clip in (0.0, -1.0, math.inf, math.nan, 1e21)),
        *((1.0, clients, "clients must be between 1 and") for clients in (0, -3, 2**21)),
    ],
)
def test_terms_that_leave_no_scale(clip, clients, words):
    with pytest.raises(SecureSumError, match=words):
        FixedPoint(clip, clients)
