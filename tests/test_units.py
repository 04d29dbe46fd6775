"""Amounts as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leff.errors import ConfigError
from leff.units import BYTES, FLOPS, parse_amount, parse_link, parse_seconds, parse_speed, share_of


@pytest.mark.parametrize(
    ("text", "units", "amount"),
    [
        ("64MB", BYTES, 64_000_000),
        ("1.5 GiB", BYTES, 3 * 2**29),
        (" 12 ", BYTES, 12),
        (".5kB", BYTES, 500),
        ("0.29GB", BYTES, 290_000_000),  # 0.29 · 1e9 is a hair below in floating point
        ("7KiB", BYTES, 7168),
        ("50G", FLOPS, 50 * 10**9),
        ("2.T", FLOPS, 2 * 10**12),
    ],
)
def test_amounts(text, units, amount):
    assert parse_amount(text, units) == amount


@given(st.integers(0, 9 * 10**8), st.sampled_from(sorted(BYTES)))
def test_whole_numbers_are_exact(number, unit):
    assert parse_amount(f"{number}{unit}", BYTES) == number * BYTES[unit]


@pytest.mark.parametrize("text", ["64mb", "64KB", "64Mb", "50G", "3 TB"])
def test_an_unknown_unit_is_told_the_known_ones(text):
    with pytest.raises(
        ConfigError, match=r"unknown unit .* known are B, kB, MB, GB, KiB, MiB, GiB"
    ):
        parse_amount(text, BYTES)


@pytest.mark.parametrize("text", ["", "MB", "-4MB", "nan", "1e9", "inf", "4,5MB", "."])
def test_what_is_no_amount(text):
    with pytest.raises(ConfigError, match="is no amount; write a number and one of B, kB"):
        parse_amount(text, BYTES)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_speed, "50GFLOP/s", 50 * 10**9),
        (parse_speed, "1.5 TFLOP/s", 15 * 10**11),
        (parse_link, "20Mbit/s", 2.5e6),
        (parse_link, "2.5 MB/s", 2.5e6),
        (parse_link, "1bit/s", 0.125),
        (parse_seconds, "30s", 30.0),
        (parse_seconds, " 1.5min ", 90.0),
        (parse_seconds, "0.25", 0.25),
        (parse_seconds, "250ms", 0.25),
    ],
)
def test_speeds_links_and_times(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_speed, "50G", "unknown unit 'G'; known are FLOP/s, kFLOP/s"),
        (parse_speed, "50", "the speed '50' needs a unit: FLOP/s"),
        (parse_link, "20", "the bandwidth '20' needs a unit: bit/s"),
        (parse_link, "20Mbps", "unknown unit 'Mbps'"),
        (parse_link, "0Mbit/s", "the bandwidth must be above 0"),
        (parse_seconds, "30 sec", "unknown unit 'sec'; known are ms, s, min, h"),
        (parse_seconds, "0s", "the time must be above 0"),
        (parse_seconds, "-3s", "is no amount"),
    ],
)
def test_speeds_links_and_times_that_are_wrong(parse, text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("count", "share", "wanted"),
    [
        *((3, 0.5, 2), (5, 0.5, 3), (7, 0.5, 4), (10, 0.25, 3), (50, 0.29, 15)),  # halves go up
        *((4, 0.5, 2), (10, 0.24, 2), (10, 0.26, 3), (8, 1.0, 8), (3, 0.01, 1), (1, 0.4, 1)),
    ],
)
def test_a_share_is_rounded_half_up_and_at_least_one(count, share, wanted):
    assert share_of(count, share) == wanted


@given(st.integers(1, 10**6), st.floats(0.001, 1))
def test_a_share_is_the_nearest_number(count, share):
    found = share_of(count, share)
    assert 1 <= found <= count
    assert found == 1 or abs(found - count * share) <= 0.5 + 1e-6
