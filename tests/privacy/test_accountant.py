"""ε of known mechanisms: Google's dp-accounting (scripts/reference_epsilons.py), and Opacus."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant

from leff.errors import ConfigError
from leff.privacy.accountant import MOST_EPSILON, Release, epsilon, noise_for

KNOWN = json.loads((Path(__file__).parent / "epsilons.json").read_text())["cases"]
QUIET = pytest.mark.filterwarnings("ignore")


def releases_of(case):
    return [Release(z, q) for z, q, times in case["releases"] for _ in range(times)]


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_epsilon_is_that_of_dp_accounting(case):
    """Its own two bounds enclose ours, which is within 2 % of the closer one."""
    found = epsilon(releases_of(case), case["delta"])
    assert case["loss"] * 0.999 - 1e-3 <= found <= case["renyi"] * 1.001
    assert found == pytest.approx(case["loss"], rel=0.02, abs=2e-3)


@QUIET
@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_opacus_bounds_are_those_of_dp_accounting(case):
    history = [tuple(each) for each in case["releases"]]
    for kind, wanted, close in ((RDPAccountant, "renyi", 1e-3), (PRVAccountant, "loss", 0.02)):
        accountant = kind()
        accountant.history = history
        assert accountant.get_epsilon(case["delta"]) == pytest.approx(case[wanted], rel=close)


def test_gaussian_alone_equals_the_formula_of_balle_and_wang():
    """δ(ε) = Φ(1/2z - εz) - e^ε Φ(-1/2z - εz) for one release without sampling."""

    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    for noise, delta in ((1.0, 1e-5), (3.0, 1e-3), (0.5, 1e-6)):
        found = epsilon([Release(noise)], delta)
        exact = phi(1 / (2 * noise) - found * noise) - math.exp(found) * phi(
            -1 / (2 * noise) - found * noise
        )
        assert exact <= delta  # an upper bound
        less = found * 0.97
        assert (
            phi(1 / (2 * noise) - less * noise)
            - math.exp(less) * phi(-1 / (2 * noise) - less * noise)
            > delta
        )


@settings(max_examples=4)
@given(st.floats(0.8, 5), st.floats(0.05, 1), st.integers(1, 30))
def test_more_rounds_less_noise_and_more_clients_cost_more(noise, rate, rounds):
    one = epsilon([Release(noise, rate)] * rounds, 1e-5)
    slack = 1.03  # both are upper bounds, found numerically
    assert one <= slack * epsilon([Release(noise, rate)] * (rounds + 1), 1e-5)
    assert one <= slack * epsilon([Release(0.9 * noise, rate)] * rounds, 1e-5)
    assert one <= slack * epsilon([Release(noise, min(1.0, 1.2 * rate))] * rounds, 1e-5)
    assert one >= epsilon([Release(noise, rate)] * rounds, 1e-4) / slack


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0, 50.0])
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_noise_is_the_least_that_keeps_the_target(target, rate):
    noise = noise_for(target, 1e-5, rate, rounds=10)
    assert epsilon([Release(noise, rate)] * 10, 1e-5) <= target
    assert epsilon([Release(noise * 0.97, rate)] * 10, 1e-5) > target


def test_earlier_releases_leave_less():
    before = [Release(4.0)] * 5
    alone, after = noise_for(4.0, 1e-5, 1.0, 5), noise_for(4.0, 1e-5, 1.0, 5, before)
    assert after > 1.1 * alone
    assert epsilon([*before, *[Release(after)] * 5], 1e-5) <= 4.0


def test_a_budget_that_is_spent_is_refused():
    with pytest.raises(ConfigError, match=r"leaves nothing for 3 rounds: 4\.\d+ was spent before"):
        noise_for(2.0, 1e-5, 1.0, 3, [Release(1.0)])


@pytest.mark.parametrize("delta", [1e-15, 1e-30])
def test_a_delta_below_what_floats_can_tell_has_a_bound(delta):
    assert 0 < epsilon([Release(1.1, 0.1)] * 10, 1e-5) < epsilon([Release(1.1, 0.1)] * 10, delta)


def test_nothing_costs_nothing_and_no_noise_costs_all():
    assert epsilon([], 1e-5) == 0
    assert epsilon([Release(0.0), Release(9.0)], 1e-5) == math.inf
    assert epsilon([Release(1e-2)], 1e-5) > MOST_EPSILON  # by Rényi's bound alone
    assert epsilon([Release(1e6)], 0.5) == 0  # never below


@pytest.mark.parametrize(
    ("release", "delta"),
    [
        (Release(1.0), 0.0),
        (Release(1.0), 1.0),
        (Release(1.0, 0.0), 0.1),
        (Release(1.0, 1.5), 0.1),
        (Release(-1.0), 0.1),
    ],
)
def test_what_is_no_release_is_refused(release, delta):
    with pytest.raises(ValueError, match=r"must be above|a rate is above"):
        epsilon([release], delta)
