"""An audit: one client's data must be as hard to tell as ε says, by what a round releases.

The canary trains on its own examples and sends a real update.  An attacker knows everything but the
noise: the start model, all other updates, and what the canary would send.  It projects what the
round released on the difference that the canary makes, which is the best test there is.  A
threshold comes from one half of the trials, and the bound from the other half (Jagielski et al.
2020), with 95 % Clopper-Pearson intervals.

- ``fedavg``, ``leff``: the server's noise; the canary is there or not.
- ``device``: the canary's own noise, and its update is seen; it has these examples or others.
- ``sums``: noise in secure sums; it has these examples or others.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from private_rounds import SIZES, private
from scipy import stats
from small_rounds import PAD, TRAINING, clients_of, fleet_of, proxy, random_examples, state_of
from tiny_models import tiny

from leff.client.noised import noised
from leff.client.train import train
from leff.client.upload import first_values
from leff.methods.jobs import JobWriter
from leff.methods.method import RoundContext
from leff.privacy.accountant import Release, epsilon
from leff.privacy.gaussian import gaussian_epsilon
from leff.privacy.noise import Noise, seeded_key
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.privacy import make_privacy
from leff.server import Server
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import unpack

CANARY, CLIP, NOISE, DELTA = 3, 0.05, 3.0, 1e-5
CONTEXT = RoundContext(0, 0, TRAINING)
OTHERS = clients_of("generation", SIZES)
WORLDS = [OTHERS[CANARY], random_examples("generation", SIZES[CANARY], seed=99)]


def flat(tensors, names):
    return torch.cat([tensors[name].flatten() for name in names]).double().numpy()


def noise_of(world, trial):
    return Noise(seeded_key(10**6 * (world + 1) + trial))


def by_server(name):
    """What rounds with the canary (world 0) or without it (1) release, (trials, values).

    Also the same without noise.  Values are in units of the sum, whose noise is the same in all.
    """

    def released(folder, world, trials):
        model = tiny("gpt2", "generation")
        start = state_of(model)
        method, privacy, store = private(name, model, folder, noise=NOISE, clip=CLIP)
        fleet = fleet_of(OTHERS, [4] * 4, store)
        server = Server(store, Spool(folder / "updates"))
        reports = fleet.report([0, 1, 2, CANARY] if world == 0 else [0, 1, 2])
        jobs = method.plan(model, CONTEXT, reports).jobs
        server.open(model, jobs, reports)
        for update in fleet.train(jobs):
            server.receive(update)
        opened = method.opened(model, CONTEXT)
        names = sorted(opened.values)
        shares = {each: opened.shares[each] for each in names}
        steps = {each: min(1.0, 2 * s) if name == "leff" else 1.0 for each, s in shares.items()}
        units = {each: len(SIZES) * shares[each] / steps[each] for each in names}
        rows = []
        for trial in range(-1, trials):  # the first without noise
            privacy._random = lambda trial=trial: noise_of(world, trial)
            privacy.noise = 0.0 if trial < 0 else NOISE
            model.load_state_dict(start)
            privacy.merge(method, model, CONTEXT, server, fleet)
            own = state_of(model)
            rows.append(flat({n: (own[n] - start[n]) * units[n] for n in names}, names))
        return np.array(rows[1:]), rows[0]

    return released


def by_device(folder, world, trials):
    """What the canary sends with its examples (world 0) or with others (1)."""
    model, store = tiny("gpt2", "generation"), PartStore(folder / "parts")
    writer = JobWriter(store, "generation", PAD, private=True, clip=CLIP, noise=NOISE)
    config = load_config(None, {"clients.layers": [2], "clients.count": 1})
    method = build_method(config, writer, proxy("generation"), model)
    method.begin(model)
    reports = fleet_of([WORLDS[world]], [2], store).report([0])
    (job,) = method.plan(model, CONTEXT, reports).jobs
    start = first_values(job, store.get)
    plain = replace(job, clip=0.0, noise=0.0)
    trained = unpack(train(plain, store.get, WORLDS[world], torch.device("cpu")).payload)
    rows = []
    for trial in range(-1, trials):
        asked = replace(job, noise=0.0) if trial < 0 else job
        sent = noised(asked, trained, start, noise_of(world, trial))
        rows.append(flat({name: sent[name] - start[name] for name in sent}, sorted(sent)))
    return np.array(rows[1:]), rows[0]


def by_sums(folder, world, trials):
    """What secure sums release if the canary has its examples (world 0) or others (1)."""
    model, store = tiny("gpt2", "generation"), PartStore(folder / "parts")
    config = load_config(
        None,
        {
            "clients.count": 4,
            "clients.layers": [4],
            "privacy.secure_sums": True,
            "privacy.noise": NOISE,
            "privacy.clip": CLIP,
            "privacy.delta": DELTA,
            "training.rounds": 4,
        },
    )
    writer = JobWriter(store, "generation", PAD, private=True, clip=CLIP, held=True)
    method = build_method(config, writer, proxy("generation"), model)
    method.begin(model)
    fleet = fleet_of([*OTHERS[:CANARY], WORLDS[world]], [4] * 4, store)
    server, reports = Server(store, Spool(folder / "updates")), fleet.report(range(4))
    (folder / "run").mkdir(parents=True)
    privacy = make_privacy(config, RunFolder(folder / "run"))
    jobs = method.plan(model, CONTEXT, reports).jobs
    server.open(model, jobs, reports)
    for update in fleet.train(jobs):
        server.receive(update)
    sums = privacy._sums(method.opened(model, CONTEXT), CONTEXT, server, fleet)
    names, rows = sorted(sums.totals), []
    for trial in range(trials):
        privacy._random = lambda trial=trial: noise_of(world, trial)
        rows.append(flat(privacy._noised(sums, CONTEXT, server), names))
    return np.array(rows), flat(sums.totals, names)


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


@pytest.mark.parametrize(
    ("release", "furthest", "least"),
    [
        pytest.param(by_server("fedavg"), CLIP, 0.999, id="fedavg"),
        pytest.param(by_server("leff"), CLIP, 0.999, id="leff", marks=pytest.mark.slow),
        pytest.param(by_device, 2 * CLIP, 0.5, id="device"),  # two updates are not opposite
        pytest.param(by_sums, 2 * CLIP, 0.5, id="sums"),
    ],
)
@pytest.mark.soak(120, 5_000)
def test_an_attacker_proves_less_than_the_claimed_epsilon(
    release, furthest, least, count, tmp_path
):
    """Two worlds are `least` to once `furthest` apart, and ε is of that distance."""
    (first, quiet), (second, other) = (release(tmp_path / str(k), k, count) for k in range(2))
    direction = quiet - other
    apart = float(np.linalg.norm(direction))
    assert least * furthest < apart <= furthest * 1.001  # or the attacker has little to look for
    scores = [(rows - other) @ direction for rows in (first, second)]
    noise = NOISE * CLIP / furthest
    claimed = epsilon([Release(noise)], DELTA)
    assert claimed >= gaussian_epsilon([noise], DELTA)
    assert lower_bound(*scores) < gaussian_epsilon([noise], DELTA)
    # the attack is a good one: its scores are as far apart as the noise says
    seen = (scores[0].mean() - scores[1].mean()) / scores[1].std()
    assert seen == pytest.approx(apart / (NOISE * CLIP), abs=5 / math.sqrt(count))


@pytest.mark.parametrize("release", [by_server("fedavg"), by_device], ids=["fedavg", "device"])
def test_the_audit_finds_noise_that_is_too_small(release, tmp_path):
    """A twelfth of the noise that is claimed is proven to be too little."""
    (first, quiet), (second, other) = (release(tmp_path / str(k), k, 120) for k in range(2))
    scores = [
        (still + (rows - still) / 12 - other) @ (quiet - other)
        for rows, still in ((first, quiet), (second, other))
    ]
    assert lower_bound(*scores) > epsilon([Release(NOISE)], DELTA)
