"""ε of Gaussian noise without sampling, by a formula: light enough for a device.

    gaussian_epsilon([2.0] * 10, delta=1e-5)         # of ten releases with twice the clip as noise
    gaussian_noise(8.0, delta=1e-5, releases=10)     # what each of ten releases needs

Releases with noise z_1, z_2, ... together tell as much as one with z, 1 / z² = Σ 1 / z_i² (Dong et
al. 2022).  Of one release δ is known exactly (Balle and Wang 2018):

    δ(ε) = Φ(1 / 2z - ε · z) - e^ε · Φ(-1 / 2z - ε · z)
"""

import math
from collections.abc import Iterable

MOST_EPSILON = 1e4  # larger ones promise nothing
CLOSE = 1e-6


def gaussian_epsilon(noises: Iterable[float], delta: float) -> float:
    """Return ε at δ = `delta` of releases with these noises, in units of the sensitivity.

    It is infinite if one has no noise, or if it is above `MOST_EPSILON`.  Raises ValueError for a δ
    outside (0, 1), and for a negative noise.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must be above 0 and below 1, got {delta}")
    each = list(noises)
    if any(noise < 0 for noise in each):
        raise ValueError(f"a noise is at least 0, got {min(each)}")
    if not each:
        return 0.0
    if not min(each):
        return math.inf
    noise = 1 / math.sqrt(math.fsum(own**-2 for own in each))
    if _delta(0.0, noise) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(high, noise) > delta:
        low, high = high, 2 * high
        if high > MOST_EPSILON:
            return math.inf
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, noise) > delta else (low, middle)
    return high


def gaussian_noise(epsilon: float, delta: float, releases: int, before: float = 0.0) -> float:
    """Return the least noise of each of `releases` that keeps ε, to a millionth.

    `before` is Σ 1 / z² of earlier releases.  Raises ValueError if these have used ε up.
    """
    high = 1.0
    while gaussian_epsilon([high], delta) > epsilon:
        high *= 2
    low = high / 2
    while gaussian_epsilon([low], delta) <= epsilon:
        low, high = low / 2, low
    while high - low > CLOSE * high:
        middle = (low + high) / 2
        low, high = (
            (low, middle) if gaussian_epsilon([middle], delta) <= epsilon else (middle, high)
        )
    left = high**-2 - before
    if left <= 0:
        raise ValueError("nothing of epsilon is left")
    return math.sqrt(releases / left)


def _delta(epsilon: float, noise: float) -> float:
    half, shift = 1 / (2 * noise), epsilon * noise
    return math.exp(_log_phi(half - shift)) - math.exp(epsilon + _log_phi(-half - shift))


def _log_phi(x: float) -> float:
    """Return the logarithm of the standard normal distribution at x, for any x."""
    if x > -30:
        return math.log(0.5 * math.erfc(-x / math.sqrt(2)))
    # the first terms of the asymptotic series, a bound from above: the error is below 1e-5
    return -x * x / 2 - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / x**2 + 3 / x**4)
