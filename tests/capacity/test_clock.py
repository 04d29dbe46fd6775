"""The virtual clock's laws: additive, monotone, idle shares in [0, 1]."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.capacity.clock import Needs, idle_share, round_seconds, steps_within
from leff.wire.messages import Device

PHONE = Device("phone", 10**9, 2e9, 2.5e6, 625e3)
COUNTS = st.integers(0, 10**12)
NEEDS = st.builds(Needs, COUNTS, COUNTS, COUNTS)
DEVICES = st.builds(
    Device, st.just("d"), st.just(1), *(st.floats(1e3, 1e15) for _ in ("speed", "down", "up"))
)


def test_by_hand():
    spent = round_seconds(Needs(5_000_000, 1_250_000, 4 * 10**9), PHONE, 3)
    assert (spent.download, spent.compute, spent.upload, spent.total) == (2, 6, 2, 10)
    assert steps_within(Needs(5_000_000, 1_250_000, 4 * 10**9), PHONE, 9.9, 8) == 2
    assert steps_within(Needs(5_000_000, 1_250_000, 4 * 10**9), PHONE, 10, 8) == 3
    assert steps_within(Needs(5_000_000, 1_250_000, 4 * 10**9), PHONE, 3.9, 8) == -1
    assert steps_within(Needs(5_000_000, 1_250_000, 4 * 10**9), PHONE, 4, 8) == 0


@given(NEEDS, NEEDS, DEVICES, st.integers(0, 1000))
def test_additive(a, b, device, steps):
    both = Needs(
        a.download_bytes + b.download_bytes,
        a.upload_bytes + b.upload_bytes,
        a.step_flops + b.step_flops,
    )
    each = round_seconds(a, device, steps).total + round_seconds(b, device, steps).total
    assert round_seconds(both, device, steps).total == pytest.approx(each)
    twice = round_seconds(a, device, 2 * steps).compute
    assert twice == pytest.approx(2 * round_seconds(a, device, steps).compute)


@given(NEEDS, DEVICES, st.integers(0, 1000), st.floats(1.0, 10.0))
def test_monotone(needs, device, steps, factor):
    plain = round_seconds(needs, device, steps).total
    assert round_seconds(needs, device, steps + 1).total >= plain
    for field in ("flops_per_second", "down_bytes_per_second", "up_bytes_per_second"):
        faster = replace(device, **{field: factor * getattr(device, field)})
        assert round_seconds(needs, faster, steps).total <= plain * (1 + 1e-12)


@given(NEEDS, DEVICES, st.floats(0.0, 1e6), st.integers(0, 1000))
def test_steps_are_the_most_that_are_in_time(needs, device, seconds, most):
    steps = steps_within(needs, device, seconds, most)
    assert -1 <= steps <= most
    if steps >= 0:
        assert round_seconds(needs, device, steps).total <= seconds
    if steps < most:  # one more is late, but for rounding
        assert round_seconds(needs, device, steps + 1).total >= seconds * (1 - 1e-9)


@given(st.lists(st.floats(0, 1e9), min_size=1))
def test_idle_share(own):
    found = idle_share(own)
    assert found is not None and -1e-12 <= found <= 1
    assert found <= 1 - 1 / len(own) + 1e-12  # the slowest is never idle


def test_idle_share_by_hand():
    assert idle_share([10, 5, 0]) == 0.5
    assert idle_share([3.0]) == 0 and idle_share([0.0]) == 0 and idle_share([]) is None
