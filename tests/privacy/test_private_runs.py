"""Whole runs with noise: what is recorded, resumed, continued, stopped and refused."""

import json
import stat

import pytest
from tiny_runs import Killed, least, options, outcome, raises, save_tiny

import leff
from leff.errors import CheckpointError, ConfigError, RunError
from leff.files import unsealed, write_json
from leff.privacy.accountant import Release, epsilon
from leff.privacy.gaussian import gaussian_epsilon
from leff.runs import federation
from leff.runs.config import load_config
from leff.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_runs")
DELTA = 0.05


def private(folder, **changes):
    own = {"privacy__epsilon": 50.0, "privacy__delta": DELTA, "clients__count": 4}
    return least(folder, data__train_examples=24, **{**own, **changes})


def ledger(folder):
    return unsealed((folder / "privacy.json").read_bytes())


def spent(folder):
    return [record.epsilon for record in RunFolder(folder).records()]


class KillAfter:
    """A progress that ends the process after so many records."""

    def __init__(self, rounds):
        self.rounds = rounds

    def __getattr__(self, _):
        return lambda *_: None

    def measured(self, record):
        if record.round == self.rounds:
            raise Killed


def test_the_budget_is_spent_over_the_rounds_and_is_everywhere(tmp_path):
    run = leff.run(**private(tmp_path, training__rounds=3), out=tmp_path / "run")
    found = spent(tmp_path / "run")
    assert found[0] == 0
    assert found == sorted(found) and len(set(found)) == 4
    assert 0.97 * 50 < found[-1] <= 50
    line = json.loads((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[-1])
    assert line["epsilon"] == found[-1]
    privacy = run.result["privacy"]
    assert privacy["epsilon"] == found[-1]
    assert epsilon([Release(privacy["noise"])] * 3, DELTA) == pytest.approx(found[-1])
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"({found[-1]:.2f}, 0.05) differential privacy of each client" in card


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("leff", {}),
        ("fedlora", {}),
        ("leff", {"privacy__where": "device"}),
        ("leff", {"privacy__secure_sums": True, "clients__per_round": 0.75}),
    ],
)
def test_a_resumed_run_is_the_same_to_the_bit_noise_included(method, own, tmp_path, monkeypatch):
    """The key is of the operating system, and outlives the process."""
    changes = {"method__name": method, "clients__per_round": 0.6, "method__rank": 2}
    changes |= {"privacy__noise": 0.5, "privacy__epsilon": 0.0, **own}
    given = private(tmp_path, training__rounds=2, **changes)
    with pytest.raises(Killed):
        leff.run(**given, out=tmp_path / "run", progress=KillAfter(1))
    copy_key = (tmp_path / "run" / "privacy.key").read_bytes()
    leff.resume(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("leff.runs.privacy.fresh_key", lambda: copy_key)
        leff.run(**given, out=tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert len(ledger(tmp_path / "run")["entries"]) == 2
    leff.run(**given, out=tmp_path / "other")
    assert outcome(tmp_path / "other")["model"] != outcome(tmp_path / "whole")["model"]


def test_the_key_is_for_its_owner_alone(tmp_path):
    leff.run(**private(tmp_path, training__rounds=1), out=tmp_path / "run")
    mode = (tmp_path / "run" / "privacy.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_repeated_round_of_other_updates_counts_twice(tmp_path, monkeypatch):
    """Killed after its ledger, before its checkpoint; then a client sends something else."""
    given = private(tmp_path, training__rounds=2)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(federation.Federation, "_measured", lambda own, record: record)
        patch.setattr(RunFolder, "save_checkpoint", raises)
        leff.run(**given, out=tmp_path / "run")
    assert len(ledger(tmp_path / "run")["entries"]) == 1
    for header in (tmp_path / "run" / "updates").glob("client-1.*"):
        header.write_bytes(b"lost")
    train = federation.run_round
    with monkeypatch.context() as patch:
        patch.setattr(
            federation,
            "run_round",
            lambda model, method, fleet, context, *more: train(
                model, method, fleet, other(context), *more
            ),
        )
        leff.resume(tmp_path / "run")
    entries = ledger(tmp_path / "run")["entries"]
    assert [entry["round"] for entry in entries][:2] == [1, 1]
    assert spent(tmp_path / "run")[-1] > 50 * 0.97 or len(entries) == 2


def killed_before_the_checkpoint(given, folder, round_number, monkeypatch):
    """Its ledger has the round, and nothing else does."""
    save = RunFolder.save_checkpoint

    def saved(own, checkpoint, *more):
        if checkpoint.round == round_number:
            raise Killed
        save(own, checkpoint, *more)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "save_checkpoint", saved)
        leff.run(**given, out=folder)
    assert len(ledger(folder)["entries"]) == round_number


@pytest.mark.parametrize("where", ["server", "device"])
def test_the_last_round_that_the_budget_allows_is_done_again_after_a_kill(
    where, tmp_path, monkeypatch
):
    given = private(tmp_path, training__rounds=2, privacy__where=where)
    given["privacy.reproducible"] = True
    leff.run(**given, out=tmp_path / "whole")
    killed_before_the_checkpoint(given, tmp_path / "run", 2, monkeypatch)
    leff.resume(tmp_path / "run")
    assert spent(tmp_path / "run")[-1] > 50 * 0.97
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_other_updates_in_the_last_round_end_the_run_before_it(tmp_path, monkeypatch, caplog):
    given = private(tmp_path, training__rounds=2)
    killed_before_the_checkpoint(given, tmp_path / "run", 2, monkeypatch)
    path = tmp_path / "run" / "privacy.json"
    values = ledger(tmp_path / "run")
    values["entries"][1]["inputs"] = "of others"
    path.unlink()
    write_json(path, values)
    run = leff.resume(tmp_path / "run")
    assert run.result["rounds"] == 1
    assert "the run ends after round 1: round 2 was done before with other updates" in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("privacy.json", "nobody knows what the run has spent"),
        ("privacy.key", "would release the same sums with other noise"),
    ],
)
def test_a_lost_file_ends_the_run(name, words, tmp_path, monkeypatch):
    given = private(tmp_path, training__rounds=2)
    killed_before_the_checkpoint(given, tmp_path / "run", 2, monkeypatch)
    (tmp_path / "run" / name).unlink()
    with pytest.raises(CheckpointError, match=words):
        leff.resume(tmp_path / "run")


def test_a_run_that_goes_on_without_the_others_ledger_is_refused(tmp_path):
    given = private(tmp_path, training__rounds=1)
    leff.run(**given, out=tmp_path / "first")
    (tmp_path / "first" / "privacy.json").unlink()
    with pytest.raises(ConfigError, match=r"privacy\.json is lost, and nobody knows what"):
        leff.run(**{**given, "model.name": str(tmp_path / "first")}, out=tmp_path / "second")


def test_noise_that_a_seed_gives_away_is_not_claimed_later(tmp_path):
    given = private(tmp_path, training__rounds=1)
    known = {"privacy.reproducible": True}
    leff.run(**given, **known, out=tmp_path / "first")
    more = {**given, "model.name": str(tmp_path / "first"), "privacy.epsilon": 90.0}
    with pytest.raises(ConfigError, match="who knows its seed can take its noise away"):
        leff.run(**more, out=tmp_path / "second")
    leff.run(**more, **known, out=tmp_path / "second")


def test_the_card_tells_of_no_single_client(tmp_path):
    run = leff.run(**private(tmp_path, training__rounds=1), out=tmp_path / "run")
    card = (run.folder / "model" / "README.md").read_text()
    assert "differential privacy of each client" in card
    assert "examples each" not in card and "bytes" not in card


def other(context):
    """The same round with another rate, so that updates differ."""
    from dataclasses import replace

    training = replace(context.training, learning_rate=context.training.learning_rate / 2)
    return replace(context, training=training)


def test_the_run_ends_before_the_budget_is_passed(tmp_path, caplog):
    changes = {"privacy__noise": 1.0, "privacy__epsilon": 5.0, "training__rounds": 9}
    run = leff.run(**private(tmp_path, **changes), out=tmp_path / "run")
    done = run.result["rounds"]
    assert 0 < done < 9
    assert epsilon([Release(1.0)] * done, DELTA) <= 5 < epsilon([Release(1.0)] * (done + 1), DELTA)
    assert (
        f"the run ends after round {done}: one more would pass privacy.epsilon = 5" in caplog.text
    )
    assert leff.resume(tmp_path / "run").result == run.result
    assert RunFolder.open_finished(tmp_path / "run")


def test_without_stop_it_goes_on(tmp_path):
    changes = {"privacy__noise": 1.0, "privacy__epsilon": 3.0, "privacy__stop": False}
    leff.run(**private(tmp_path, training__rounds=4, **changes), out=tmp_path / "run")
    assert spent(tmp_path / "run")[-1] > 3


def test_a_continued_run_goes_on_with_what_was_spent(tmp_path):
    given = private(tmp_path, training__rounds=2, privacy__epsilon=20.0)
    leff.run(**given, out=tmp_path / "first")
    first = spent(tmp_path / "first")[-1]
    more = {**given, "model.name": str(tmp_path / "first"), "privacy.epsilon": 30.0}
    run = leff.run(**more, out=tmp_path / "second")
    found = spent(tmp_path / "second")
    assert found[0] == pytest.approx(first)
    assert first < found[1] < found[2] <= 30
    assert run.result["privacy"]["noise"] > 0
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 10 leaves nothing for 2 rounds"):
        leff.run(**{**more, "privacy.epsilon": 10.0}, out=tmp_path / "third")


def test_a_start_without_privacy_is_said(tmp_path, caplog):
    given = private(tmp_path, training__rounds=1)
    leff.run(**{k: v for k, v in given.items() if "privacy" not in k}, out=tmp_path / "first")
    leff.run(**{**given, "model.name": str(tmp_path / "first")}, out=tmp_path / "second")
    assert (
        "was trained without privacy; what it learnt of these clients is not counted" in caplog.text
    )
    card = (tmp_path / "second" / "model" / "README.md").read_text()
    assert "of this run alone, as it started from a run without" in card


def test_devices_add_noise_themselves_and_epsilon_is_of_who_was_asked_most(tmp_path):
    changes = {
        "privacy__where": "device",
        "clients__per_round": 0.5,
        "training__rounds": 4,
        "seed": 1,
    }
    run = leff.run(**private(tmp_path, **changes), out=tmp_path / "run")
    noise = run.result["privacy"]["noise"]
    asked = [client for entry in ledger(tmp_path / "run")["entries"] for client in entry["clients"]]
    most = max(asked.count(client) for client in range(4))
    assert len(asked) == 8 and most < 4
    assert spent(tmp_path / "run")[-1] == pytest.approx(gaussian_epsilon([noise / 2] * most, DELTA))
    assert gaussian_epsilon([noise / 2] * 4, DELTA) == pytest.approx(50, rel=1e-3)


def test_the_two_kinds_of_noise_are_not_added_up(tmp_path):
    leff.run(**private(tmp_path, training__rounds=1), out=tmp_path / "first")
    more = private(tmp_path, privacy__where="device", training__rounds=1)
    for own in (more, private(tmp_path, privacy__secure_sums=True, training__rounds=1)):
        with pytest.raises(
            ConfigError,
            match=r"where = 'server' and privacy\.secure_sums = false, and ε of",
        ):
            leff.run(**{**own, "model.name": str(tmp_path / "first")}, out=tmp_path / "second")


def test_what_sums_and_devices_spent_is_added_up(tmp_path):
    """Both are of a client's data being other data."""
    given = private(tmp_path, privacy__secure_sums=True, training__rounds=2)
    leff.run(**given, out=tmp_path / "first")
    more = private(tmp_path, privacy__where="device", training__rounds=1, privacy__epsilon=80.0)
    leff.run(**{**more, "model.name": str(tmp_path / "first")}, out=tmp_path / "second")
    found = spent(tmp_path / "second")
    assert found[0] == pytest.approx(spent(tmp_path / "first")[-1])
    assert found[-1] == pytest.approx(80, rel=1e-3)


def test_a_continued_run_of_noisy_devices_goes_on_with_what_was_spent(tmp_path):
    given = private(tmp_path, privacy__where="device", training__rounds=2)
    leff.run(**given, out=tmp_path / "first")
    first = spent(tmp_path / "first")[-1]
    more = {**given, "model.name": str(tmp_path / "first"), "privacy.epsilon": 80.0}
    leff.run(**more, out=tmp_path / "second")
    found = spent(tmp_path / "second")
    assert found[0] == pytest.approx(first) and found[-1] == pytest.approx(80, rel=1e-3)
    with pytest.raises(ConfigError, match=r"privacy\.epsilon = 50 leaves nothing for 2 rounds"):
        leff.run(**{**more, "privacy.epsilon": 50.0}, out=tmp_path / "third")


def test_the_clip_follows_the_norms(tmp_path):
    changes = {"privacy__quantile": 0.5, "privacy__clip": 100.0, "training__rounds": 3}
    leff.run(**private(tmp_path, privacy__epsilon=1e4, **changes), out=tmp_path / "run")
    clips = [entry["clip"] for entry in ledger(tmp_path / "run")["entries"]]
    assert clips[0] == 100
    assert clips == sorted(clips, reverse=True) and len(set(clips)) == 3


def test_noise_of_a_seed_is_said_to_be_none(tmp_path, caplog):
    changes = {"privacy__reproducible": True, "training__rounds": 1}
    run = leff.run(**private(tmp_path, **changes), out=tmp_path / "run")
    assert not (tmp_path / "run" / "privacy.key").exists()
    assert run.result["privacy"]["reproducible"]
    assert [record.reproducible for record in run.records()] == [True, True]
    assert "who knows the seed can take the noise away" in caplog.text
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "differential privacy of each client" not in card


def test_clipping_alone_has_no_epsilon(tmp_path):
    changes = {"privacy__epsilon": 0.0, "privacy__noise": 0.0, "training__rounds": 1}
    run = leff.run(**private(tmp_path, **changes), out=tmp_path / "run")
    assert run.result["privacy"]["epsilon"] is None
    assert spent(tmp_path / "run") == [None, None]


def test_nobody_was_drawn_in_any_round(tmp_path):
    changes = {"clients__per_round": 1e-6, "training__rounds": 1, "privacy__noise": 1.0}
    with pytest.raises(RunError, match=r"no client was drawn; raise clients\.per_round"):
        leff.run(**private(tmp_path, **changes), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy.noise": 0.0}, "epsilon = 50 cannot be kept with privacy.noise = 0"),
        ({"privacy.delta": 0.25}, r"privacy.delta = 0.25 must be below 1 / 4 clients = 0.25"),
        ({"method.weights": "examples"}, "method.weights = 'examples' cannot be used with privacy"),
        ({"method.merge": "median"}, "noise is for sums; it must be 'mean'"),
        ({"method.clip_norm": 3.0}, "privacy.clip is the bound; it must be 0.0"),
        ({"evaluation.where": "devices"}, "devices' figures are not noised"),
        ({"evaluation.gap_clients": 2}, "single updates would be measured"),
        ({"training.levelled": True}, "devices would tell what labels they have"),
        ({"method.name": "leff", "method.source": "clients"}, "devices' importance is not noised"),
        ({"method.name": "leff", "method.together": False}, "blocks must not tell who takes part"),
        ({"method.name": "leff", "context.seconds": 2.0}, "a clock would decide"),
        ({"method.name": "flora"}, "privacy cannot be used with flora, whose merge needs single"),
        ({"method.name": "flexlora"}, "privacy cannot be used with flexlora"),
        ({"privacy.noise": 0.01, "privacy.epsilon": 1.0}, "leaves no round within privacy.epsilon"),
    ],
)
def test_what_would_prove_nothing_is_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        leff.run(**{**private(tmp_path), **changes}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy.clip": 2.0}, "privacy.clip = 2.0 does nothing alone; set privacy.epsilon"),
        ({"privacy.noise": 0.0, "privacy.quantile": 0.5}, "privacy.quantile = 0.5 needs noise"),
        ({"privacy.noise": 1.0, "privacy.stop": False}, "does nothing without privacy.epsilon"),
        (
            {"privacy.noise": 1.0, "privacy.least_cohort": 5},
            "privacy.least_cohort = 5 does nothing without privacy.secure_sums",
        ),
        ({"privacy.noise": 1.0, "privacy.threshold": 0.8}, "privacy.threshold = 0.8 does nothing"),
        (
            {"privacy.epsilon": 1.0, "privacy.where": "device", "privacy.quantile": 0.5},
            "needs the clients' true norms",
        ),
        ({"method.together": True, "method.sampling": "fixed"}, "keeps each client at its own"),
        (
            {
                "data.task": "e2e",
                "proxy.task": "e2e",
                "privacy.epsilon": 9.0,
                "privacy.delta": 0.01,
            },
            "proxy.task = 'e2e' is the clients' own data",
        ),
    ],
)
def test_options_that_contradict_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        leff.run(**{**options(save_tiny(tmp_path / "model")), **changes}, out=tmp_path / "run")


def test_on_a_network_the_number_of_devices_must_be_given():
    with pytest.raises(ConfigError, match=r"clients\.count must be given for privacy on a network"):
        load_config(None, {"privacy.epsilon": 1.0, "engine.name": "flower"})
