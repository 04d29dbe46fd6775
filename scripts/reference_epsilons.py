"""Writes ε of known mechanisms as Google's dp-accounting says, for the accountant's tests.

    pip install dp-accounting            # in an environment of its own: it asks for an old attrs
    python scripts/reference_epsilons.py > tests/privacy/epsilons.json

Each case is a list of releases (noise, rate, times), a δ, and ε by Rényi differential privacy and
by privacy loss distributions.
"""

import json
from importlib.metadata import version

from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

CASES = [
    ([(1.0, 1.0, 1)], 1e-5),
    ([(4.0, 1.0, 20)], 1e-5),
    ([(0.7, 1.0, 1)], 1e-2),
    ([(1.0, 0.1, 20)], 1e-5),
    ([(0.8, 0.05, 100)], 1e-6),
    ([(3.0, 0.5, 8)], 1e-3),
    ([(2.0, 0.2, 40)], 1e-3),
    ([(1.1, 0.01, 1000)], 1e-5),
    ([(30.0, 0.5, 1000)], 1e-5),
    ([(2.0, 1.0, 5), (3.0, 0.5, 10), (1.0, 0.1, 3)], 1e-5),
    ([(5.0, 1.0, 1)], 1e-10),
]


def event(noise, rate, times):
    once = GaussianDpEvent(noise)
    return SelfComposedDpEvent(once if rate == 1 else PoissonSampledDpEvent(rate, once), times)


def epsilon(accountant, releases, delta):
    return float(
        accountant.compose(ComposedDpEvent([event(*each) for each in releases])).get_epsilon(delta)
    )


if __name__ == "__main__":
    rows = [
        {
            "releases": releases,
            "delta": delta,
            "renyi": epsilon(RdpAccountant(), releases, delta),
            "loss": epsilon(PLDAccountant(), releases, delta),
        }
        for releases, delta in CASES
    ]
    print(json.dumps({"dp-accounting": version("dp-accounting"), "cases": rows}, indent=1))
