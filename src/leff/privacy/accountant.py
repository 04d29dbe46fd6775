"""ε of noisy sums over clients, by the accountants of Opacus.

    epsilon([Release(noise=1.1, rate=0.1)] * 20, delta=1e-5)                   # 3.38
    noise_for(epsilon=8, delta=1e-5, rate=0.1, rounds=20)                      # 0.71

A release is a sum of the clients' updates.  Each client takes part with probability `rate`, apart
from all others (Poisson sampling).  Its update has an L2 norm of C at most.  Every value of the sum
gets Gaussian noise of deviation `noise` · C.  Neighbouring sets of clients differ by one client,
which is there or not.

ε is the smaller of two upper bounds: Rényi differential privacy (Mironov 2017; Mironov et al. 2019)
and numerical composition of privacy loss variables (Gopi et al. 2021).  The second is closer, and
needs memory that grows with ε, so it is left out where the first says that ε is large.
"""

import logging
import math
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from leff.errors import ConfigError

MOST_EPSILON = 60.0  # above it only Rényi's bound is computed
ORDERS = [
    1.25,
    1.5,
    1.75,
    *range(2, 65),
    128,
    256,
    512,
]  # of Rényi's divergence; whole ones are quick
MOST_NOISE = 1e6  # of a release, in units of the clip
CLOSE = 1e-3  # to which a noise is found, as a share of it
TINY = 1e-12  # an ε that is as good as none


@dataclass(frozen=True)
class Release:
    """One noisy sum: the noise's deviation over the clip, and each client's probability."""

    noise: float  # z
    rate: float = 1.0  # q


def epsilon(releases: Iterable[Release], delta: float) -> float:
    """Return ε of releases together at δ = `delta`; infinite if one of them has no noise.

    Raises ValueError for a δ outside (0, 1), a rate outside (0, 1], or a negative noise.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be above 0 and below 1, got {delta}")
    counted = Counter(releases)
    for each in counted:
        if not 0 < each.rate <= 1 or each.noise < 0:
            raise ValueError(f"a rate is above 0 and at most 1, a noise at least 0, got {each}")
    if not counted:
        return 0.0
    if any(each.noise == 0 for each in counted):
        return math.inf
    from opacus.accountants import PRVAccountant, RDPAccountant

    history = [(each.noise, each.rate, times) for each, times in counted.items()]
    with _quiet():
        renyi = RDPAccountant()
        renyi.history = history
        bound = float(renyi.get_epsilon(delta, alphas=ORDERS))
        if bound < MOST_EPSILON:
            loss = PRVAccountant()
            loss.history = history
            error = min(0.1, max(1e-3, bound / 100))
            with suppress(ValueError, RuntimeError):  # it has no bound: δ is too small for floats
                bound = min(bound, float(loss.get_epsilon(delta, eps_error=error)))
    return max(0.0, bound)


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Opacus' notes to itself: an order that it skips only makes the bound wider."""
    log = logging.getLogger("opacus.accountants.analysis.rdp")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def noise_for(
    target: float, delta: float, rate: float, rounds: int, before: Sequence[Release] = ()
) -> float:
    """Return the least noise with which `rounds` more releases keep ε at `target` or below.

    It is in units of the clip, and found to a thousandth.  Raises ConfigError if what was released
    `before` has used the target up.
    """

    def spent(noise: float) -> float:
        return epsilon([*before, *[Release(noise, rate)] * rounds], delta)

    high = 1.0
    while high < MOST_NOISE and spent(high) > target:
        high *= 2
    if high >= MOST_NOISE:
        used = epsilon(before, delta)
        raise ConfigError(
            f"privacy.epsilon = {target:g} leaves nothing for {rounds} rounds: {used:.3g} was spent"
            " before; raise it, or start from a model that was not trained on these clients"
        )
    while spent(high / 2) <= target:
        high /= 2
    from scipy.optimize import brentq

    def above(log_noise: float) -> float:
        return math.log(max(spent(math.exp(log_noise)), TINY) / target)

    found = math.exp(brentq(above, math.log(high / 2), math.log(high), xtol=CLOSE / 2))
    while spent(found) > target:
        found *= 1 + CLOSE / 4
    return found
