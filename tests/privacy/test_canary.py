"""An audit: one client in or out must be as hard to tell as ε says, by what a round releases.

The canary trains on its own examples and sends a real update.  An attacker knows everything but the
noise: the start model, all other updates, and what the canary would send.  It projects what the
round released on the canary's clipped update, which is the best test there is.  A threshold comes
from one half of the trials, and the bound from the other half (Jagielski et al. 2020), with 95 %
Clopper-Pearson intervals.
"""

import math

import numpy as np
import pytest
import torch
from private_rounds import SIZES, private
from scipy import stats
from small_rounds import TRAINING, clients_of, fleet_of, state_of
from tiny_models import tiny

from leff.methods.method import RoundContext
from leff.privacy.accountant import Release, epsilon
from leff.privacy.noise import Noise, seeded_key
from leff.server import Server
from leff.wire.spool import Spool

CANARY, CLIP, NOISE, DELTA = 3, 0.05, 3.0, 1e-5


def released(folder, present, trials):
    """What rounds with these clients release, (trials, values), and the same without noise."""
    model, context = tiny("gpt2", "generation"), RoundContext(0, 0, TRAINING)
    start = state_of(model)
    method, privacy, store = private("fedavg", model, folder, noise=NOISE, clip=CLIP)
    fleet = fleet_of(clients_of("generation", SIZES), [4] * 4, store)
    server, reports = Server(store, Spool(folder / "updates")), fleet.report(present)
    server.open(model, method.plan(model, context, reports).jobs, reports)
    for update in fleet.train(method.plan(model, context, reports).jobs):
        server.receive(update)
    names = sorted(method.opened(model, context).values)
    rows, quiet = [], None
    for trial in range(-1, trials):  # the first without noise
        noise = Noise(seeded_key(1000 * len(present) + trial))
        privacy._random = lambda noise=noise: noise
        privacy.noise = 0.0 if trial < 0 else NOISE
        model.load_state_dict(start)
        privacy.merge(method, model, context, server, fleet)
        own = state_of(model)
        row = torch.cat([(own[name] - start[name]).flatten() for name in names]).double().numpy()
        if trial < 0:
            quiet = row
        else:
            rows.append(row)
    return np.array(rows), quiet


def lower_bound(with_canary, without):
    """The ε that these scores prove, at 95 %, at `DELTA`."""
    half = len(with_canary) // 2
    tried = np.quantile(np.r_[with_canary[:half], without[:half]], np.linspace(0.05, 0.95, 19))
    best = max(tried, key=lambda threshold: _at(threshold, with_canary[:half], without[:half]))
    return _at(best, with_canary[half:], without[half:])


def _at(threshold, positive, negative):
    hits, alarms = int((positive > threshold).sum()), int((negative > threshold).sum())
    least = stats.beta.ppf(0.025, hits, len(positive) - hits + 1) if hits else 0.0
    most = (
        stats.beta.ppf(0.975, alarms + 1, len(negative) - alarms) if alarms < len(negative) else 1.0
    )
    return max(0.0, math.log(max(least - DELTA, 1e-12) / most))


@pytest.mark.soak(120, 5_000)
def test_an_attacker_proves_less_than_the_claimed_epsilon(count, tmp_path):
    inside, quiet_in = released(tmp_path / "in", [0, 1, 2, CANARY], count)
    outside, quiet_out = released(tmp_path / "out", [0, 1, 2], count)
    direction = quiet_in - quiet_out
    assert np.linalg.norm(direction) * len(SIZES) == pytest.approx(CLIP, rel=1e-3)
    scores = [(rows - quiet_out) @ direction for rows in (inside, outside)]
    claimed = epsilon([Release(NOISE)], DELTA)
    proven = lower_bound(*scores)
    assert proven < claimed
    # the attack is a good one: its scores are as far apart as 1 / z says
    apart = (scores[0].mean() - scores[1].mean()) / scores[1].std()
    assert apart == pytest.approx(1 / NOISE, abs=5 / math.sqrt(count))


def test_the_audit_finds_noise_that_is_too_small(tmp_path):
    """A twelfth of the noise that is claimed is proven to be too little."""
    inside, quiet_in = released(tmp_path / "in", [0, 1, 2, CANARY], 120)
    outside, quiet_out = released(tmp_path / "out", [0, 1, 2], 120)
    direction = quiet_in - quiet_out
    scores = [
        (quiet + (rows - quiet) / 12 - quiet_out) @ direction
        for rows, quiet in ((inside, quiet_in), (outside, quiet_out))
    ]
    assert lower_bound(*scores) > epsilon([Release(NOISE)], DELTA)
