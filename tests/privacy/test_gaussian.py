"""ε of Gaussian noise without sampling, against Opacus and the general accountant."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.privacy.accountant import Release, epsilon
from leff.privacy.gaussian import gaussian_epsilon, gaussian_noise


@pytest.mark.parametrize("noises", [[1.0], [0.5], [4.0] * 20, [2.0, 3.0, 5.0], [30.0] * 9])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_it_is_below_the_accountants_bounds_and_near_them(noises, delta):
    exact, bound = gaussian_epsilon(noises, delta), epsilon([Release(z) for z in noises], delta)
    assert exact <= bound * (1 + 1e-6)
    assert exact == pytest.approx(bound, rel=0.03, abs=5e-3)


@settings(max_examples=200)
@given(st.floats(0.02, 100), st.floats(1e-12, 0.4))
def test_delta_of_the_epsilon_found_is_the_one_asked(noise, delta):
    """By numbers of many digits: the formula cancels where ε is large."""
    mp = pytest.importorskip("mpmath").mp
    found = gaussian_epsilon([noise], delta)
    with mp.workdps(60):
        z, e = mp.mpf(noise), mp.mpf(found)
        exact = mp.ncdf(1 / (2 * z) - e * z) - mp.exp(e) * mp.ncdf(-1 / (2 * z) - e * z)
        assert exact <= delta * (1 + 1e-4)
        assert found == 0 or exact >= delta * 0.9


@settings(max_examples=50)
@given(st.floats(0.05, 50), st.floats(1e-10, 1e-2), st.integers(1, 1000))
def test_noise_is_the_least_that_keeps_epsilon(target, delta, releases):
    noise = gaussian_noise(target, delta, releases)
    assert gaussian_epsilon([noise] * releases, delta) <= target * (1 + 1e-9)
    assert gaussian_epsilon([noise * 0.999] * releases, delta) > target * 0.999


def test_earlier_releases_leave_less_or_nothing():
    alone, after = gaussian_noise(4.0, 1e-5, 5), gaussian_noise(4.0, 1e-5, 5, before=5 / 16)
    assert after > alone
    assert gaussian_epsilon([4.0] * 5 + [after] * 5, 1e-5) == pytest.approx(4.0, rel=1e-4)
    with pytest.raises(ValueError, match="nothing of epsilon is left"):
        gaussian_noise(1.0, 1e-5, 1, before=1.0)


def test_nothing_costs_nothing_and_no_noise_costs_all():
    assert gaussian_epsilon([], 1e-5) == 0
    assert gaussian_epsilon([0.0, 3.0], 1e-5) == math.inf
    assert gaussian_epsilon([1e-4], 1e-5) == math.inf  # above what means anything
    assert gaussian_epsilon([1e9], 1e-5) == 0
    for noises, delta in (([1.0], 0.0), ([1.0], 1.0), ([-1.0], 0.1)):
        with pytest.raises(ValueError, match=r"must be above|at least 0"):
            gaussian_epsilon(noises, delta)
