"""Noisy sums through real rounds: their deviation, and that one client changes nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from private_rounds import SIZES, private
from small_rounds import TRAINING, clients_of, fleet_of, same, state_of
from tiny_models import LAYERS, tiny

from leff.methods.method import Opened, RoundContext
from leff.methods.noisy import Mechanism, noisy_means
from leff.models import layer_prefix, trainable_names
from leff.privacy.clipping import clip_factor
from leff.round import run_round
from leff.server import Server
from leff.wire.json import job_digest
from leff.wire.messages import Update
from leff.wire.spool import Spool
from leff.wire.tensors import pack

NAMES = ("leff", "fedavg", "fedbitfit", "fedlora", "slora")


def private_rounds(name, folder, rounds=1, present=SIZES, **settings):
    """Do private rounds; return the model before and after, the records, and the method."""
    model = tiny("gpt2", "generation")
    before = state_of(model)
    method, privacy, store = private(name, model, folder, **settings)
    fleet = fleet_of(clients_of("generation", present), [1, 2, 1, 4][: len(present)], store)
    server = Server(store, Spool(folder / "updates"))
    records = [
        run_round(
            model,
            method,
            fleet,
            RoundContext(index, settings.get("seed", 0), TRAINING),
            server,
            privacy=privacy,
        )
        for index in range(rounds)
    ]
    return before, model, records, method


def parts_of(model):
    """What each layer's names begin with, and those beside the layers."""
    layers = {str(layer): layer_prefix(model, layer) for layer in range(LAYERS)}
    return {**layers, "tail": "transformer.ln_f"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in NAMES if name != "slora"),
        ("slora", {"method.sparse_share": 0.5}),  # round 1 of 4 is of its first stage
        ("leff", {"rate": 0.5}),
        ("fedlora", {"rate": 0.5}),
        ("fedavg", {"privacy.quantile": 0.5}),
    ],
)
def test_every_open_layer_gets_noise_of_the_claimed_deviation(name, settings, tmp_path):
    """z · C / (n · π_l), times the step of the merge, in each layer, however few trained it.

    n is the rate times all clients, whoever came.  With a quantile updates get a tenth more.  The
    same run without noise is taken away; what is left over must be Gaussian of this deviation.
    """
    noise, clip = 3.0, 0.1
    start, noisy, (record,), method = private_rounds(
        name, tmp_path / "a", noise=noise, clip=clip, **settings
    )
    quiet = {key: value for key, value in settings.items() if key != "privacy.quantile"}
    _, plain, (other_record,), other_method = private_rounds(
        name, tmp_path / "b", noise=0.0, clip=clip, **quiet
    )
    assert [each.client for each in record.clients] == [c.client for c in other_record.clients]
    fresh = tiny("gpt2", "generation")
    opened = private(name, fresh, tmp_path / "c")[0].opened(fresh, RoundContext(0, 0, TRAINING))
    own, other = {**state_of(noisy), **method.state()}, {**state_of(plain), **other_method.state()}
    expected = settings.get("rate", 1.0) * len(SIZES)
    more = 1.1 if "privacy.quantile" in settings else 1.0
    for part, prefix in parts_of(noisy).items():
        names = [each for each in opened.values if each.startswith(prefix)]
        if not names:
            assert (part == "tail") == (name in ("fedlora", "slora"))  # which train no norm
            continue
        share = opened.shares[names[0]]
        step = min(1.0, 2.0 * share) if name == "leff" else 1.0
        deviation = more * noise * clip / (expected * share) * step
        values = torch.cat([(own[each] - other[each]).flatten() for each in names]).double().numpy()
        count = len(values)
        assert values.std() == pytest.approx(deviation, rel=5 / np.sqrt(2 * count))  # 5 deviations
        assert abs(values.mean()) < 5 * deviation / np.sqrt(count)
    if name in ("leff", "fedavg", "fedbitfit"):  # adapters and sparse values are added to weights
        shut = start.keys() - opened.values.keys()
        assert all(torch.equal(own[each], start[each]) for each in shut)


def test_the_clip_that_follows_a_quantile_has_the_noise_that_its_count_claims(tmp_path):
    """Updates with 1.1 · z and the count of norms below the clip tell as much as one sum with z."""
    noise, clip, quantile = 3.0, 0.1, 0.5
    model, options = tiny("gpt2", "generation"), {"privacy.quantile": quantile}
    _, privacy, _ = private("fedavg", model, tmp_path, noise=noise, clip=clip, **options)
    norms = [0.05, 0.2, 0.3, 0.4]  # one of four is below
    drawn = np.random.default_rng(0).standard_normal(4000)
    moved = np.log([privacy._next_clip(clip, norms, each) / clip for each in drawn])
    count = -moved / 0.2 + quantile  # the share below the clip, with noise
    assert count.mean() == pytest.approx(1 / 4, abs=5 * count.std() / np.sqrt(len(count)))
    deviation = count.std() * len(SIZES)  # of a sum to which one client adds 1/2 or -1/2
    together = (1.1 * noise) ** -2 + (2 * deviation) ** -2
    assert together**-0.5 == pytest.approx(noise, rel=5 / np.sqrt(2 * len(count)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_open_does_not_depend_on_who_takes_part(name, tmp_path):
    model = tiny("gpt2", "generation")
    seen = []
    for reports in ([0], [0, 1, 2, 3], []):
        method, _, store = private(name, model, tmp_path / str(len(seen)))
        fleet = fleet_of(clients_of("generation", SIZES), [1, 2, 1, 4], store)
        context = RoundContext(1, 0, TRAINING)
        method.plan(model, context, fleet.report(reports))
        opened = method.opened(model, context)
        seen.append(({n: tuple(t.shape) for n, t in opened.values.items()}, dict(opened.shares)))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("context", ["quantise", "drop", "distil"])
def test_another_client_changes_nobodys_job(context, tmp_path):
    """Over rounds, also where students learn from round to round."""
    model, jobs = tiny("gpt2", "generation"), {}
    more = {"context.name": context, "context.steps": 3}
    for who in ((0, 1), (0, 1, 2, 3)):
        folder = tmp_path / str(len(who))
        method, _, store = private("leff", model, folder, **more)
        fleet = fleet_of(clients_of("generation", SIZES), [1, 2, 1, 4], store)
        for index in range(3):
            here = [] if index == 1 and len(who) == 2 else who
            plan = method.plan(model, RoundContext(index, 0, TRAINING), fleet.report(here))
            for job in plan.jobs:
                jobs.setdefault((index, job.client), []).append(job_digest(job))
    twice = [digests for digests in jobs.values() if len(digests) == 2]
    assert len(twice) == 4
    assert all(first == second for first, second in twice)


@pytest.mark.parametrize("name", NAMES)
def test_a_client_moves_the_sum_by_the_clip_at_most(name, tmp_path):
    """The same round with and without the last client, which nobody else notices."""
    model, clip = tiny("gpt2", "generation"), 0.01
    sums = []
    for reports in ([0, 1, 2, 3], [0, 1, 2]):
        folder = tmp_path / str(len(reports))
        method, _, store = private(name, model, folder, noise=1.0, clip=clip)
        fleet = fleet_of(clients_of("generation", SIZES), [1, 2, 1, 4], store)
        server, context = Server(store, Spool(folder / "updates")), RoundContext(0, 0, TRAINING)
        plan = method.plan(model, context, fleet.report(reports))
        server.open(model, plan.jobs, fleet.report(reports))
        for update in fleet.train(plan.jobs):
            server.receive(update)
        opened = method.opened(model, context)
        files = server.spool.files()
        means = noisy_means(
            opened, files, Mechanism(clip, 1.0, 4), lambda count, _: np.zeros(count)
        )
        assert max(update.norm for update, _ in files) > clip  # or nothing is clipped
        sums.append(
            {n: (m.tensor - opened.values[n].detach()) * 4 * m.share for n, m in means.means()}
        )
    squares = [float((sums[0][n] - sums[1][n]).square().sum()) for n in sums[0]]
    assert 0.99 * clip <= np.sqrt(np.sum(squares)) <= clip * (1 + 1e-9)


def test_a_round_without_anybody_is_noise_alone(tmp_path):
    start, model, (record,), _ = private_rounds("leff", tmp_path, rate=1e-3, noise=2.0)
    assert record.clients == ()
    moved = [n for n, t in state_of(model).items() if not torch.equal(t, start[n])]
    assert moved
    assert record.failures == 0


def test_records_have_no_figure_of_a_clients_data(tmp_path):
    _, _, records, _ = private_rounds("leff", tmp_path, rounds=2)
    assert len(records[1].clients) == 4
    for record in records:
        assert record.train_loss is None
        for client in record.clients:
            assert client.losses is None
            assert client.layer_scores == ()
            assert (client.norm, client.norms, client.clipped) == (None, None, None)


def test_losses_that_nobody_asked_for_are_refused(tmp_path):
    model = tiny("gpt2", "generation")
    method, _, store = private("leff", model, tmp_path)
    fleet = fleet_of(clients_of("generation", SIZES), [1, 2, 1, 4], store)
    server, context = Server(store, Spool(tmp_path / "updates")), RoundContext(0, 0, TRAINING)
    reports = fleet.report([0])
    plan = method.plan(model, context, reports)
    server.open(model, plan.jobs, reports)
    (update,) = fleet.train(plan.jobs)
    kept = server.receive(replace(update, losses=(1.0, 0.5)))
    assert "a private run does not ask for" in kept.failure


def test_rounds_are_the_same_to_the_bit_with_a_seed_and_differ_with_another(tmp_path):
    models = [
        state_of(private_rounds("fedlora", tmp_path / str(k), rounds=2, seed=seed)[1])
        for k, seed in enumerate((0, 0, 1))
    ]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_a_foreign_tensor_is_refused(tmp_path):
    opened = Opened.by_all({"a": torch.zeros(2)})
    file = tmp_path / "own"
    file.write_bytes(pack({"b": torch.ones(2)}))
    update = Update(0, 7, (), 3, norm=1.0)
    with pytest.raises(ValueError, match=r"client 7 sent \['b'\]"):
        noisy_means(opened, [(update, file)], Mechanism(1.0, 1.0, 4), lambda n, _: np.zeros(n))


@pytest.mark.parametrize("norm", [1e-9, 0.3, 1.0, 1.0000001, 17.3, 1e30])
def test_rounding_does_not_pass_the_clip(norm):
    factor = clip_factor(norm, 1.0)
    assert norm * factor <= 1.0
    assert factor == 1.0 or norm * factor > 1 - 1e-12


def test_names_of_every_method_are_all_that_it_trains(tmp_path):
    """Nothing that a client may train is left out of the noise."""
    model = tiny("gpt2", "generation")
    for name in NAMES:
        method, _, store = private(name, model, Path(tmp_path / name))
        fleet = fleet_of(clients_of("generation", SIZES), [1, 2, 1, 4], store)
        context = RoundContext(0, 0, TRAINING)
        opened = method.opened(model, context)
        for job in method.plan(model, context, fleet.report(range(4))).jobs:
            names = trainable_names(model, job.block) if job.tuned is None else job.tuned.shapes
            assert set(names) <= opened.values.keys()
