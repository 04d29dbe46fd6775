"""Federated evaluation: devices' sums are the server's figures, and a run needs no server data."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import command, flags, least, options, outcome, save_tiny, write_table

import leff
from leff.errors import ConfigError, DataError
from leff.methods.method import RoundContext
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.tasks.evaluator import Evaluator
from leff.tasks.held_out import held_out_loss
from leff.wire.messages import Measure

pytestmark = pytest.mark.usefixtures("quick_runs")


def settings(tmp_path, kind, **changes):
    table = write_table(tmp_path / "train.jsonl", kind)
    own = {
        "data__task": "table",
        "data__train": str(table),
        "data__kind": kind,
        "data__train_examples": 40,
        "method__name": "fedavg",
        "clients__partition": "iid",
        "training__rounds": 2,
        "evaluation__where": "devices",
        "evaluation__bits": 32,
    }
    return options(save_tiny(tmp_path / "model", kind), **{**own, **changes})


def prepared(tmp_path, kind, **changes):
    config = load_config(None, settings(tmp_path, kind, **changes))
    return prepare(config, RunFolder.new(tmp_path / "run", config))


@pytest.mark.parametrize(
    "kind", ["generation", "classification", "multilabel", "regression", "text"]
)
def test_the_devices_sums_are_the_figures_of_all_their_examples(tmp_path, kind):
    """Measured one by one and added up: what one evaluator says of all examples at once."""
    federation = prepared(tmp_path, kind)
    held = [example for own in federation.clients.fleet._validation for example in own]
    assert all(map(len, federation.clients.fleet._validation)) and federation.evaluator is None
    found = federation.on_devices.measure(
        federation.model, federation.clients.fleet, federation.server, round=0
    )
    assert found["examples"] == len(held)
    pad = federation.tokenizer.pad_token_id
    wanted = held_out_loss(federation.model, held, batch_size=64, pad_id=pad)
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    if kind in ("classification", "multilabel", "regression"):
        evaluator = Evaluator(federation.task, federation.tokenizer, 32)
        evaluator._seen["validation", len(held)] = held
        whole = replace(federation.task, validation=range(len(held)), name="table")
        loss, metrics, *_ = replace(evaluator, task=whole)._labels(
            federation.model, "validation", range(len(held))
        )
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        for name in metrics.keys() & found["metrics"].keys():
            assert found["metrics"][name] == pytest.approx(metrics[name], abs=1e-3), (
                name
            )  # other padding
    losses = {int(client): own["loss"] for client, own in found["clients"].items()}
    assert losses.keys() == set(range(4))
    worst = max(losses, key=lambda client: losses[client])
    assert found["worst"]["client"] == worst and found["worst"]["loss"] == losses[worst]
    shares = [own["examples"] for own in found["clients"].values()]
    if kind in ("classification", "multilabel", "regression"):
        mean = np.average(list(losses.values()), weights=shares)
        assert found["loss"] == pytest.approx(mean)


def test_a_run_without_any_data_on_the_server(tmp_path, capsys, monkeypatch):
    """The result has the devices' figures, before and after; everything that reads it copes."""
    given = settings(tmp_path, "classification", training__learning_rate=1e-2, method__name="leff")
    status, printed, _ = command(
        capsys, monkeypatch, "run", *flags(given), "--out", str(tmp_path / "run")
    )
    assert status == 0 and "measured on what each client holds out" in printed
    assert "worst client: " in printed and "devices 1." in printed
    run = leff.resume(tmp_path / "run")
    records, after = run.records(), run.result["after"]
    assert (
        after["split"] == "devices" and after["texts"] == [] and run.result["metric"] == "accuracy"
    )
    assert after["loss"] == records[-1].loss == records[-1].devices["loss"]
    named = run.result["before"]["devices"]
    assert named.items() <= records[0].devices.items() and "slowest_seconds" not in named
    assert records[0].devices["metrics"]["accuracy"] == run.before["accuracy"] == records[0].metric
    assert after["loss"] < run.result["before"]["loss"]  # it has learnt what the others hold out
    assert records[1].plug_in is None and run.picture.exists()
    assert "held out by the devices" in (run.model / "README.md").read_text()
    status, printed, _ = command(capsys, monkeypatch, "list", str(tmp_path), "--json")
    (row,) = json.loads(printed)
    assert row["after"] == run.after["accuracy"] and row["finished"] and row["problem"] is None


def test_both_measure(tmp_path):
    given = least(tmp_path, evaluation__where="both", training__rounds=1, data__train_examples=30)
    run = leff.run(out=tmp_path / "run", **given)
    last = run.records()[-1]
    assert last.loss != last.devices["loss"] and run.result["after"]["split"] == "validation"
    assert run.result["after"]["devices"].items() <= last.devices.items()
    assert run.result["metric"] == last.devices["metric"] == "perplexity"


def test_eight_bits_are_close_and_the_parts_of_stand_ins_are_not_sent_again(tmp_path):
    """After the devices measured the model in 8 bits, LEFF's stand-ins are what they hold."""
    changes = {"method__name": "leff", "context__name": "quantise", "clients__layers": [1]}
    federation = prepared(tmp_path, "text", evaluation__bits=8, **changes)
    fleet, server, model = federation.clients.fleet, federation.server, federation.model
    found = federation.on_devices.measure(model, fleet, server, round=0)
    exact = replace(federation.on_devices, bits=32).measure(model, fleet, server, round=0)
    assert found["loss"] == pytest.approx(exact["loss"], abs=1e-3)
    assert found["loss"] != exact["loss"] and found["download_bytes"] < exact["download_bytes"]
    federation.on_devices.measure(model, fleet, server, round=0)
    federation.method.begin(model)
    context = RoundContext(0, 0, federation.config.training.local(0))
    jobs = federation.method.plan(model, context, fleet.report(fleet.clients())).jobs
    for job in jobs:
        missing = {part.digest for part in server.holdings.missing(job).values()}
        block = {part.digest for s in job.segments if s.trains for part in s.parts}
        assert missing == block


@pytest.mark.slow
def test_workers_measure_the_same(tmp_path):
    given = settings(tmp_path, "classification", training__rounds=1)
    leff.run(out=tmp_path / "one", **given)
    leff.run(out=tmp_path / "two", **{**given, "engine.workers": 2})
    assert outcome(tmp_path / "one") == outcome(tmp_path / "two")


def test_a_resumed_run_measures_the_same(tmp_path, monkeypatch):
    given = settings(tmp_path, "text", training__rounds=2)
    leff.run(out=tmp_path / "whole", **given)
    config = load_config(None, given)
    folder = RunFolder.new(tmp_path / "cut", config)
    federation = prepare(config, folder)
    monkeypatch.setattr(folder, "save_checkpoint", _once(folder.save_checkpoint))
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    leff.resume(tmp_path / "cut")
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


def _once(save):
    done = []

    def saved(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(save(*arguments))

    return saved


def test_a_diverged_model_is_recorded(tmp_path):
    federation = prepared(tmp_path, "regression")
    with torch.no_grad():
        next(federation.model.parameters()).fill_(math.nan)
    found = federation.on_devices.measure(
        federation.model, federation.clients.fleet, federation.server, round=0
    )
    assert math.isnan(found["loss"]) and math.isnan(found["metrics"]["pearson"])
    assert found["worst"]["client"] == 0 and "failure" not in found["clients"]["0"]


def test_what_clients_say_is_checked_and_counted_once(tmp_path):
    """Wrong, foreign, late and missing answers: one client's failure each, or nothing at all."""
    federation = prepared(tmp_path, "text")
    fleet, own = federation.clients.fleet, federation.on_devices

    class Meddling(type(fleet)):
        def measure(self, jobs):
            first, second, third, _ = super().measure(jobs)
            yield replace(first, client=99)
            yield replace(first, client="0")
            yield replace(first, round=7)
            yield first
            yield replace(first, loss=0.0)  # again
            yield replace(second, examples=10**6)
            yield replace(third, failure="\n" * 9 + "gone " * 200)

    fleet.__class__ = Meddling
    found = own.measure(federation.model, fleet, federation.server, round=0)
    clients = found["clients"]
    assert clients["0"]["loss"] == found["loss"] > 0 and found["worst"]["client"] == 0
    assert "validation examples" in clients["1"]["failure"]
    assert clients["2"]["failure"].startswith("gone") and len(clients["2"]["failure"]) <= 200
    assert clients["3"]["failure"] == "it did not answer"


def test_nobody_measures(tmp_path):
    federation = prepared(tmp_path, "text")
    answers = iter([Measure(0, client, 1, failure="gone") for client in range(4)])
    federation.clients.fleet.measure = lambda jobs: (answer for answer in answers)
    found = federation.on_devices.measure(
        federation.model, federation.clients.fleet, federation.server, round=0
    )
    assert math.isnan(found["loss"]) and found["worst"] is None and found["examples"] == 0


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"clients__validation_share": 0.0}, ConfigError, "needs clients.validation_share above 0"),
        ({"evaluation__device_metric": "bleu"}, ConfigError, "bleu needs the generated texts"),
        ({"evaluation__device_metric": "mse"}, ConfigError, "'mse' is no metric of kind text"),
        ({"data__train": None, "data__folder": None}, ConfigError, "no training examples here"),
    ],
)
def test_what_cannot_be_measured_is_said_before_training(tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        prepared(tmp_path, "text", **changes)


def test_clients_with_a_single_text_have_nothing_to_hold_out(tmp_path):
    changes = {"data__train_examples": 4, "clients__min_examples": 1}
    with pytest.raises(DataError, match="no client has two texts"):
        prepared(tmp_path, "text", **changes)
