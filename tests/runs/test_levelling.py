"""Runs whose head is levelled after each merge: recorded, resumed to the bit, on any engine."""

import pytest
from tiny_runs import Killed, least, outcome, save_tiny, write_table

import leff
from leff.client import train as training
from leff.engines import local
from leff.files import unsealed
from leff.runs.levelling import Leveller


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Options of a tiny run, by kind."""
    top = tmp_path_factory.mktemp("levelled")

    def of(kind, **changes):
        given = {
            "model__name": str(save_tiny(top / f"{kind}-model", kind)),
            "data__train": str(write_table(top / f"{kind}.jsonl", kind)),
            "data__train_examples": 30,
            "training__levelled": True,
            "training__learning_rate": 1e-2,
        }
        return least(top, **{**given, **changes})

    return of


def levels(folder):
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    return [unsealed(line).get("level") for line in lines]


@pytest.mark.parametrize("method", ["leff", "fedavg", "fedlora"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_every_round_has_its_step(kind, method, settings, quick_runs, tmp_path):
    run = leff.run(**settings(kind, method__name=method), out=tmp_path / "run")
    first, *rounds = levels(run.folder)
    assert first is None and len(rounds) == 2
    for level in rounds:
        assert len(level["step"]) == (3 if kind == "classification" else 1) and any(level["step"])
        assert level["clients"] == 2 and level["download_bytes"] > 0
    clients = [client for record in run.records() for client in record.clients]
    fetched = sum(level["download_bytes"] for level in rounds)
    assert run.result["download_bytes"] == fetched + sum(c.download_bytes for c in clients)


@pytest.mark.parametrize(("share", "held"), [(0.0, False), (0.4, False), (0.6, True)])
def test_clients_answer_on_what_they_hold_out_or_if_it_is_little_on_the_rest(
    share, held, settings, quick_runs, tmp_path, monkeypatch
):
    asked, real = [], local.measure_or_fail

    def noted(job, fetch, examples, *rest):
        asked.append((job.client, len(examples)))
        return real(job, fetch, examples, *rest)

    monkeypatch.setattr(local, "measure_or_fail", noted)
    options = settings("classification", clients__validation_share=share)
    run = leff.run(**options, out=tmp_path / "run")
    trained = {client.client: client.examples for client in run.records()[1].clients}
    assert sum(trained.values()) == round(30 * (1 - share))
    for client, rows in asked:
        assert rows == (15 - trained[client] if held else trained[client])


def test_only_those_that_trained_are_asked(settings, quick_runs, tmp_path, monkeypatch):
    """Who failed in training, or was late, would hold the round up a second time."""
    asked, real = [], local.measure_or_fail

    def noted(job, *arguments):
        asked.append(job.client)
        return real(job, *arguments)

    def broken(job, *arguments):
        if job.client == 0:
            raise ValueError("gone")
        return trained(job, *arguments)

    trained = training.train
    monkeypatch.setattr(local, "measure_or_fail", noted)
    monkeypatch.setattr(training, "train", broken)
    run = leff.run(**settings("classification"), out=tmp_path / "run")
    assert run.result["failures"] == 2 and asked == [1, 1]
    assert [level["clients"] for level in levels(run.folder)[1:]] == [1, 1]


def test_a_language_model_is_not_levelled(settings, quick_runs, tmp_path):
    run = leff.run(**settings("text"), out=tmp_path / "run")
    assert levels(run.folder) == [None, None, None]


@pytest.mark.parametrize("steady", [True, False])
def test_a_run_that_is_killed_while_it_levels_comes_to_the_same(
    steady, settings, quick_runs, tmp_path, monkeypatch
):
    """Where the fleet may change, the clients are not asked again once they have answered."""
    options, asked = settings("classification"), []
    real = Leveller.level, Leveller._asked

    def asking(self, model, fleet, *rest):
        asked.append(rest[1].index)
        return real[1](self, model, fleet, *rest)

    def levelling(self, model, fleet, *rest):
        monkeypatch.setattr(fleet, "steady", steady)
        done = real[0](self, model, fleet, *rest)
        if len(asked) == 2 and kill:
            raise Killed
        return done

    monkeypatch.setattr(Leveller, "_asked", asking)
    monkeypatch.setattr(Leveller, "level", levelling)
    kill = False
    leff.run(**options, out=tmp_path / "whole")
    asked.clear()
    kill = True
    with pytest.raises(Killed):
        leff.run(**options, out=tmp_path / "run")
    kill = False
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert asked == ([0, 1, 1] if steady else [0, 1])
