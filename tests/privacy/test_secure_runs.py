"""Runs in which the server sees sums only."""

import json
import math

import numpy as np
import pytest
import torch
from small_rounds import TRAINING, clients_of, same, state_of
from tiny_models import tiny
from tiny_runs import Killed, least, outcome

import leff
from leff.client.summed import Held
from leff.engines.local import LocalFleet
from leff.errors import ConfigError, SecureSumError
from leff.methods.method import RoundContext
from leff.methods.noisy import SumMeans
from leff.methods.secure import groups_of, secure_sums
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.gaussian import gaussian_epsilon
from leff.privacy.secure_messages import Group, Invitation, Masked
from leff.privacy.secure_sums import Roster, SecureClient
from leff.round import run_round
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.privacy import make_privacy
from leff.runs.trained import read_trained
from leff.server import Server
from leff.wire.messages import Capacity
from leff.wire.spool import Spool
from leff.wire.tensors import one_by_one, pack, shapes_of, unpack

pytestmark = pytest.mark.usefixtures("quick_runs")
NORM = "transformer.ln_f.weight"


def secure(folder, **changes):
    own = {"privacy__secure_sums": True, "clients__count": 4}
    return least(folder, data__train_examples=24, **{**own, **changes})


def secure_rounds(
    name, folder, store, fleet_kind=LocalFleet, layers=(1, 2, 1, 4), rounds=1, **more
):
    """Rounds of four clients; return the model before and after, records, and the server."""
    from small_rounds import PAD, fleet_of, proxy

    from leff.methods.jobs import JobWriter

    config = load_config(
        None,
        {
            "method.name": name,
            "method.rank": 2,
            "clients.count": 4,
            "clients.layers": list(layers),
            "privacy.secure_sums": True,
            "training.rounds": 4,
            **more,
        },
    )
    model, settings = tiny("gpt2", "generation"), config.privacy
    before = state_of(model)
    writer = JobWriter(store, "generation", PAD, private=True, clip=settings.clip, held=True)
    method = build_method(config, writer, proxy("generation"), model)
    method.begin(model)
    fleet = fleet_of(clients_of("generation", (9, 5, 12, 7)), layers, store, kind=fleet_kind)
    server = Server(store, Spool(folder / "updates"))
    (folder / "run").mkdir(parents=True, exist_ok=True)
    privacy = make_privacy(config, RunFolder(folder / "run"))
    records = [
        run_round(model, method, fleet, RoundContext(index, 0, TRAINING), server, privacy=privacy)
        for index in range(rounds)
    ]
    return before, model, records, server, fleet


@pytest.mark.parametrize("name", ["leff", "fedavg", "fedbitfit", "fedlora", "slora"])
def test_sums_are_the_plain_fixed_point_sums_to_the_bit(name, tmp_path, store, monkeypatch):
    """What is merged is each tensor's sum of rounded changes, over those who trained it."""
    seen = {}

    class Watching(SumMeans):
        def __init__(self, opened, totals, clients, present):
            start = {n: t.detach().clone() for n, t in opened.values.items()}
            seen.update(totals=dict(totals), clients=dict(clients), start=start)
            super().__init__(opened, totals, clients, present)

    monkeypatch.setattr("leff.runs.private_rounds.SumMeans", Watching)
    _, _, (record,), _, fleet = secure_rounds(name, tmp_path, store, layers=(2, 2, 2, 4))
    fixed = FixedPoint(10.0, 4)
    plain, counts = {}, {}
    for held in fleet._held.values():
        read, start = one_by_one(held.payload), held.start()
        for tensor in shapes_of(held.payload):
            change = (read(tensor).double() - start[tensor].double()).flatten().numpy()
            plain[tensor] = plain.get(tensor, 0) + fixed.encode(change)
            counts[tensor] = counts.get(tensor, 0) + 1
    assert set(plain) == set(seen["totals"])
    assert counts == seen["clients"]
    for tensor, total in seen["totals"].items():
        wanted = torch.from_numpy(fixed.decode(plain[tensor])).view(total.shape)
        assert torch.equal(total, wanted)
    assert min(record.secure["clients"].values()) >= 3
    assert record.secure["upload_bytes"] > 4 * sum(
        total.numel() for total in seen["totals"].values()
    )


def test_the_server_has_no_tensor_and_no_norm_of_one_client(tmp_path, store):
    _, _, (record,), server, _ = secure_rounds("leff", tmp_path, store)
    assert all(server.spool.payload(client).read_bytes() == b"" for client in range(4))
    for client in record.clients:
        assert (client.norm, client.norms, client.losses, client.layer_scores) == (
            None,
            None,
            None,
            (),
        )
        assert client.upload_bytes == 0


def test_a_mean_without_masks_is_the_same_but_for_rounding(tmp_path):
    options = secure(tmp_path, method__name="fedlora", method__rank=2)
    plain = {k: v for k, v in options.items() if "privacy" not in k} | {
        "method.weights": "equal",
        "training.levelled": False,
    }
    leff.run(**options, out=tmp_path / "secure")
    leff.run(**plain, out=tmp_path / "plain")
    models = [read_trained(tmp_path / name)[0].state_dict() for name in ("secure", "plain")]
    for name, own in models[0].items():
        assert torch.allclose(own, models[1][name], atol=1e-5)
    assert not same(*models)


class Leaving(LocalFleet):
    """Clients that leave in a phase: {phase: clients}."""

    leaves: dict = {}  # noqa: RUF012

    def sum(self, asks):
        self.phase = getattr(self, "phase", -1) + 1
        gone = self.leaves.get(self.phase % 4, ())
        return super().sum({c: ask for c, ask in asks.items() if c not in gone})


@pytest.mark.parametrize("phase", range(4))
def test_who_leaves_is_left_out_or_still_counts(phase, tmp_path, store, monkeypatch):
    monkeypatch.setattr(Leaving, "leaves", {phase: (2,)})
    before, model, (record,), _, _ = secure_rounds("fedavg", tmp_path, store, Leaving)
    left = 4 if phase == 3 else 3  # who leaves last has sent its values
    assert set(record.secure["clients"].values()) == {left}
    assert not same(before, state_of(model))


def test_with_too_few_left_the_model_stays(tmp_path, store, monkeypatch, caplog):
    monkeypatch.setattr(Leaving, "leaves", {2: (1, 2)})
    before, model, (record,), _, _ = secure_rounds("fedavg", tmp_path, store, Leaving)
    assert same(before, state_of(model))
    assert "the round has no secure sum: only the clients 0, 3 sent values" in caplog.text
    assert record.secure["clients"] == {}


def test_no_layer_has_too_few_since_blocks_are_as_large_as_enough_clients_can(tmp_path, store):
    _, _, records, _, _ = secure_rounds("leff", tmp_path, store, layers=(1, 2, 3, 4), rounds=3)
    for record in records:
        trained = [client.layers for client in record.clients]
        assert sorted(map(len, trained)) == [1, 2, 2, 2]  # the third largest trains two
        assert [client.capacity for client in record.clients] == [1, 2, 3, 4]  # as they reported
        cohorts = {layer: sum(layer in own for own in trained) for own in trained for layer in own}
        assert min(cohorts.values()) >= 3
        assert record.secure["clients"] == {str(layer): n for layer, n in sorted(cohorts.items())}


def test_reports_are_capped_only_for_secure_sums(tmp_path):
    reports = [Capacity(client, layers, 5) for client, layers in enumerate((4, 1, 3, 3, 2))]
    for on, least_cohort, wanted in ((True, 3, [3, 1, 3, 3, 2]), (True, 4, [2, 1, 2, 2, 2])):
        config = load_config(
            None, {"privacy.secure_sums": on, "privacy.least_cohort": least_cohort}
        )
        privacy = make_privacy(config, RunFolder(tmp_path))
        assert [report.layers for report in privacy.capped(reports)] == wanted
    config = load_config(None, {"privacy.noise": 1.0})
    assert make_privacy(config, RunFolder(tmp_path)).capped(reports) == reports


def test_groups_are_of_one_cohort_and_none_is_too_small():
    trained = {3: ("a", "b", "t"), 5: ("a", "b", "t"), 7: ("a", "t"), 9: ("c", "t")}
    assert groups_of(trained, 2) == {"0": ("a",), "1": ("b",), "2": ("t",)}
    assert groups_of(trained, 3) == {"0": ("a",), "1": ("t",)}
    assert groups_of({1: ("a", "b"), 2: ("a", "b")}, 2) == {"0": ("a", "b")}
    assert groups_of(trained, 5) == {}


def test_nothing_is_asked_if_no_layer_has_enough(caplog):
    def asking(asks):
        raise AssertionError("nobody is to be asked")

    sums = secure_sums(asking, 0, {1: ("a",), 2: ("b",)}, {"a": (2,), "b": (2,)}, 1.0, 2, 0.6)
    assert (sums.totals, sums.upload_bytes) == ({}, 0)
    assert "no layer was trained by 2 clients" in caplog.text


class KillIn:
    """A progress that ends the process when a client of the second round is done."""

    def __getattr__(self, _):
        return lambda *_: None

    def trained(self, index, update):
        if index == 1:
            raise Killed


def test_a_killed_round_is_done_again_to_the_same_bits(tmp_path):
    options = secure(tmp_path)
    leff.run(**options, out=tmp_path / "whole")
    with pytest.raises(Killed):
        leff.run(**options, out=tmp_path / "run", progress=KillIn())
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("name", ["leff", "fedavg"])
def test_each_sum_gets_noise_of_the_claimed_deviation(name, tmp_path, store):
    """Through real rounds: in units of the largest norm of what one client can have added."""
    noise, found, counts = 3.0, {}, {}
    for own in (0.0, noise):
        more = {"privacy.noise": own, "privacy.clip": 0.05, "privacy.reproducible": True}
        _, model, (record,), _, fleet = secure_rounds(
            name, tmp_path / str(own), store, layers=(2, 2, 2, 2), **more
        )
        found[own] = state_of(model)
        counts[own] = record.secure["clients"]
    assert counts[0.0] == counts[noise] and set(counts[noise].values()) == {4}
    payload = next(iter(fleet._held.values())).payload
    sizes = {tensor: math.prod(shape) for tensor, shape in shapes_of(payload).items()}
    bound = FixedPoint(0.05, 4 + 24).bound(sum(sizes.values()))  # and room for eight deviations
    assert 0.05 < bound < 0.05 * (1 + 1e-5)
    changed = {n: (found[noise][n] - found[0.0][n]).double().flatten() for n in found[noise]}
    drawn = {n: d * 4 / (noise * bound) for n, d in changed.items() if d.abs().sum()}
    assert set(drawn) == set(sizes)
    for tensor, own in {**drawn, "all": torch.cat(list(drawn.values()))}.items():
        if len(own) > 200:
            assert float(own.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * len(own))), tensor
            assert float(own.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(own))), tensor


class Lying(LocalFleet):
    """Client 0 sends values at the end of the range, less what the others have there, or less."""

    less = 0

    def sum(self, asks):
        for answer in super().sum(asks):
            if isinstance(answer, Masked) and answer.client == 0:
                group = next(iter(answer.values))
                own = np.frombuffer(answer.values[group], "<u4") + np.uint32(2**31 - 1 - self.less)
                yield Masked(0, {**answer.values, group: own.tobytes()})
            else:
                yield answer


def test_a_lying_client_does_not_see_the_others_sum_without_noise(tmp_path, store, monkeypatch):
    """Sums that nearly leave the range are as close with noise as any others, around the range."""
    seen = []

    class Watching(SumMeans):
        def __init__(self, opened, totals, clients, present):
            seen.append(next(iter(totals.values())).flatten())
            super().__init__(opened, totals, clients, present)

    monkeypatch.setattr("leff.runs.private_rounds.SumMeans", Watching)
    for less in (0, 2**20):  # the others' sum then leaves the range in some places, or in none
        monkeypatch.setattr(Lying, "less", less)
        more = {"privacy.noise": 1.0, "privacy.clip": 0.05, "privacy.reproducible": True}
        secure_rounds("fedavg", tmp_path / str(less), store, Lying, (4, 4, 4, 4), **more)
    fixed = FixedPoint(0.05, 12)
    assert all(float(own.abs().max()) <= fixed.width / 2 for own in seen)
    assert {bool(sign) for sign in seen[0] > 0} == {True, False}  # it comes in at the other end


def test_epsilon_is_of_other_data_and_of_who_was_asked_most(tmp_path):
    options = secure(tmp_path, privacy__epsilon=50.0, privacy__delta=0.05, training__rounds=3)
    run = leff.run(**options, out=tmp_path / "run")
    noise = run.result["privacy"]["noise"]
    spent = [record.epsilon for record in run.records()]
    wanted = [gaussian_epsilon([noise / 2] * done, 0.05) for done in range(4)]
    assert spent == pytest.approx(wanted) and spent[-1] == pytest.approx(50, rel=1e-3)
    assert run.result["privacy"]["secure_sums"] and run.records()[1].secure["clients"]
    ledger = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert [entry["clients"] for entry in ledger["entries"]] == [[0, 1, 2, 3]] * 3


def test_a_client_clips_its_update_itself(tmp_path, store):
    """Whatever its payload has: over all tensors of its groups together."""
    *_, fleet = secure_rounds("fedavg", tmp_path, store)
    held = fleet._held[0]
    grown = {n: value * 1e3 for n, value in unpack(held.payload).items()}
    own = Held(held.job, pack(grown), held.start)
    sizes = {n: value.numel() for n, value in grown.items()}
    clients = [SecureClient(i, held.job.round) for i in (1, 2)]
    keys = [own.answer(Invitation(held.job.round, "a")), *(c.advertise() for c in clients)]
    groups = {"all": Group((0, 1, 2), sum(sizes.values()), tuple(sorted(sizes)))}
    roster = Roster(held.job.round, 2, 2, tuple(keys), groups, room=3)
    own.answer(roster)
    values = own._encoded()["all"]
    fixed = FixedPoint(held.job.clip, 3)
    norm = np.linalg.norm(fixed.decode(values))
    assert norm == pytest.approx(held.job.clip, rel=1e-5) and norm <= fixed.bound(len(values))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([Group((0, 1, 2), 32, (NORM, "other"))], "group 0 has 32 values of .*, other, of which"),
        ([Group((0, 1, 2), 9, (NORM,))], "group 0 has 9 values .* client 0 trains 32"),
        ([Group((0, 1, 2), 64, (NORM, NORM))], "a tensor of group 0 comes twice for client 0"),
        (
            [Group((0, 1, 2), 32, (NORM,)), Group((0, 1, 3), 32, (NORM,))],
            "a tensor of group 1 comes twice for client 0",
        ),
    ],
)
def test_a_client_gives_values_of_what_it_trains_only(groups, words, tmp_path, store):
    """And of each tensor once: the difference of two sums would be of one client."""
    *_, fleet = secure_rounds("fedavg", tmp_path, store)
    held = fleet._held[0]
    named = {str(place): group for place, group in enumerate(groups)}
    with pytest.raises(SecureSumError, match=words):
        held.answer(Roster(held.job.round, 2, 2, (), named))


def test_bytes_of_the_sums_are_in_the_result(tmp_path):
    run = leff.run(**secure(tmp_path), out=tmp_path / "run")
    sums = [record.secure for record in run.records()[1:]]
    assert run.result["upload_bytes"] == sum(each["upload_bytes"] for each in sums) > 0
    assert [record.upload_bytes for record in run.records()[1:]] == [
        each["upload_bytes"] for each in sums
    ]
    assert run.result["privacy"]["secure_sums"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "differential privacy of each client" not in card


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"privacy.least_cohort": 5},
            r"least_cohort = 5 is never met: a round has 4 of 4 clients; have at least 5",
        ),
        (
            {"clients.per_round": 0.5},
            r"least_cohort = 3 is never met: a round has 2 of 4 clients; have at least 6",
        ),
        (
            {"engine.name": "flower"},
            r"engine.quorum = 1 lets a round begin in which fewer than privacy.least_cohort = 3 "
            r"clients train; set engine.quorum to 3 at least",
        ),
        (
            {"engine.name": "flower", "clients.per_round": 0.75, "engine.quorum": 2},
            r"engine.quorum = 2 lets .* set engine.quorum to 4 at least",
        ),
        ({"engine.upload": "int8"}, r"engine.upload = 'int8' cannot be used with privacy.secure"),
        (
            {"privacy.where": "device", "privacy.noise": 1.0},
            "secure_sums is of no use with privacy.where = 'device'",
        ),
        ({"privacy.noise": 1.0, "privacy.quantile": 0.5}, "needs the clients' true norms"),
        ({"method.name": "flora"}, "whose merge needs single updates"),
        ({"method.name": "flexlora"}, "whose merge needs single updates"),
        ({"method.merge": "median"}, "noise is for sums"),
        ({"method.clip_norm": 2.0}, "privacy.clip is the bound"),
        ({"method.weights": "examples"}, "a client's weight must not tell its size"),
        ({"privacy.threshold": 0.5}, r"privacy.threshold must be above 0.5, got 0.5"),
    ],
)
def test_what_cannot_be_summed_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        leff.run(**{**secure(tmp_path), **changes}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
