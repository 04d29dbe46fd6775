"""All kinds of task from data to result, and how a run is put together."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import Killed, least, options, save_tiny, write_table

import leff
from leff.errors import CheckpointError, ConfigError, RunError
from leff.methods.registry import spec_of
from leff.models.hardware import pinned_threads, torch_device
from leff.runs import federation
from leff.runs.budgets import client_layers, client_reports
from leff.runs.checkpoints import Checkpoint
from leff.runs.config import load_config
from leff.runs.federation import Federation
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.runs.sources import model_source
from leff.runs.trained import restore
from leff.wire.messages import Capacity

DIGESTS = ("examples_digest", "evaluation_digest", "model_digest", "proxy_digest")
KINDS = ("generation", "classification", "regression", "text")

pytestmark = pytest.mark.usefixtures("quick_runs")


def table_options(tmp_path, kind, model, **changes):
    table = write_table(tmp_path / f"{kind}.jsonl", kind)
    by = {"clients.partition": "column", "clients.by": "town"}
    if kind == "text":
        by = {"clients.partition": "iid"}
    settings = options(model, data__task="table", data__train=str(table), **changes)
    return settings | {"proxy.task": "table", "proxy.train": str(table), "training.rounds": 2} | by


@pytest.mark.parametrize("context", ["distil", "quantise", "drop"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_end_to_end(kind, context, tmp_path):
    if context != "distil" and kind not in ("generation", "classification"):
        pytest.skip("one decoder and one encoder in every context")
    model = save_tiny(tmp_path / "model", kind)
    changes = {"context__name": context, "training__learning_rate": 2e-2}
    run = leff.run(**table_options(tmp_path, kind, model, **changes), out=tmp_path / "run")
    metric = {"generation": "BLEU", "classification": "accuracy", "regression": "pearson"}
    assert run.result["metric"] == metric.get(kind, "perplexity")
    assert run.result["after"]["loss"] < run.result["before"]["loss"]
    assert leff.evaluate(run.folder, examples=6) == run.result["after"]
    trained = run.load_model()
    assert trained.config.num_hidden_layers == 4
    if kind in ("classification", "regression"):
        from transformers import AutoModelForSequenceClassification

        loaded = AutoModelForSequenceClassification.from_pretrained(run.model)
        assert loaded.config.num_labels == (3 if kind == "classification" else 1)
        for name, value in trained.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name])
        with pytest.raises(ConfigError, match="classifies; it generates no text"):
            leff.generate(run.folder, ["a"])


def test_an_unfinished_run_is_measured_at_its_newest_checkpoint(tmp_path, tiny_gpt2):
    settings = table_options(tmp_path, "generation", tiny_gpt2)
    run = leff.run(**settings, out=tmp_path / "run")
    after = leff.evaluate(run.folder, examples=4)
    (run.folder / "result.json").unlink()
    assert leff.evaluate(run.folder, examples=4) == after
    (newest,) = (run.folder / "checkpoints").glob("round-0002")
    newest.rename(tmp_path / "away")
    assert leff.evaluate(run.folder, examples=4)["loss"] != after["loss"]
    (run.folder / "checkpoints" / "round-0001").rename(tmp_path / "away1")
    with pytest.raises(CheckpointError, match="no checkpoint yet; `leff resume"):
        leff.evaluate(run.folder)


def test_a_run_goes_on_from_another_directory(tmp_path, tiny_gpt2, monkeypatch):
    """Paths in the configuration are relative to where the run was started."""
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "tiny").symlink_to(tiny_gpt2)
    table_options(home, "generation", tiny_gpt2)
    settings = options("tiny", data__task="table", clients__partition="iid")
    settings |= {"data.folder": ".", "data.train": "generation.jsonl", "training.rounds": 2}
    settings |= {"proxy.task": "table", "proxy.train": "generation.jsonl"}

    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.chdir(home)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr("leff.runs.federation.save_model", stop)
        leff.run(**settings, out="run")
    monkeypatch.chdir(away)
    run = leff.resume(home / "run")
    assert run.result["rounds"] == 2
    monkeypatch.chdir(home)
    assert leff.evaluate("run", examples=6) == run.result["after"]


def test_preparing_writes_nothing_and_splits_everything(tmp_path, tiny_gpt2):
    config = load_config(None, table_options(tmp_path, "generation", tiny_gpt2))
    folder = tmp_path / "run"
    prepared = prepare(config, RunFolder.new(folder, config))
    assert isinstance(prepared, Federation) and not folder.exists()
    assert sum(map(len, prepared.clients.split.indices)) == 40
    rows = np.sort(np.concatenate(prepared.clients.split.indices))
    assert rows.tolist() == list(range(40))
    assert prepared.clients.layers == (1, 2, 4, 1)
    reports = prepared.clients.fleet.report(range(4))
    assert [r.layers for r in reports] == [1, 2, 4, 1]
    assert [r.examples for r in reports] == [len(r) for r in prepared.clients.split.indices]
    again = prepare(config, RunFolder.new(folder, config))
    assert again.digests == prepared.digests
    assert again.clients.split.digest == prepared.clients.split.digest


def local_trainings(prepared, rounds, monkeypatch):
    """Return the settings that clients get in some rounds, by index, of which none is done."""
    found = []

    def stops(model, method, fleet, context, *_):
        found.append(context.training)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(federation, "run_round", stops)
        for index in rounds:
            with pytest.raises(Killed):
                prepared._round(index, federation.Silent())
    return found


def test_the_rate_falls_to_a_tenth(tmp_path, tiny_gpt2, monkeypatch):
    settings = table_options(tmp_path, "generation", tiny_gpt2)
    settings |= {"training.rounds": 10, "training.learning_rate": 1.0}
    for schedule, wanted in (("linear", np.linspace(1, 0.1, 10)), ("constant", np.ones(10))):
        config = load_config(None, settings | {"training.schedule": schedule})
        prepared = prepare(config, RunFolder(tmp_path / "run"))
        found = local_trainings(prepared, range(10), monkeypatch)
        assert [training.learning_rate for training in found] == pytest.approx(wanted)


def test_the_options_of_training_reach_the_clients(tmp_path, tiny_gpt2, monkeypatch):
    given = {
        "epochs": 0.5,
        "batch_size": 6,
        "weight_decay": 0.2,
        "max_grad_norm": 3.0,
        "calibrated": False,
        "calibrated_from": 0.7,
        "proximal": 0.1,
        "precision": "bfloat16",
        "accumulation": 3,
        "checkpointing": True,
        "optimizer": "adamw8bit",
    }
    settings = table_options(tmp_path, "generation", tiny_gpt2)
    settings |= {f"training.{name}": value for name, value in given.items()}
    prepared = prepare(load_config(None, settings), RunFolder(tmp_path / "run"))
    (training,) = local_trainings(prepared, [0], monkeypatch)
    found = asdict(training)
    found |= found.pop("step")
    assert found.pop("learning_rate") > 0 and found == given


def test_the_environment_says_what_the_run_depended_on(tmp_path, tiny_gpt2):
    run = leff.run(**table_options(tmp_path, "generation", tiny_gpt2), out=tmp_path / "run")
    environment = json.loads((run.folder / "environment.json").read_text())
    assert torch.__version__.startswith(environment["versions"]["torch"])  # perhaps +cu124
    assert environment["kind"] == "generation" and environment["device"]
    for name in ("config_digest", "split_digest", *DIGESTS):
        assert len(environment[name]) == 64
    config = load_config(run.folder / "config.toml")
    prepared = prepare(config, RunFolder(tmp_path / "other"))
    assert prepared.clients.split.digest == environment["split_digest"]
    split = json.loads((run.folder / "split.json").read_text())
    assert sum(client["examples"] for client in split) == 40
    assert all(sum(c["values"].values()) == c["examples"] for c in split)


def test_model_sources(tmp_path, monkeypatch):
    from leff.tasks.sources.sample import MODEL

    monkeypatch.delenv("LEFF_MODELS", raising=False)
    assert model_source("sample") == str(MODEL)
    assert model_source("owner/model") == "owner/model"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    monkeypatch.setenv("LEFF_MODELS", str(tmp_path))
    assert model_source("owner/model") == model_source("model") == str(tmp_path / "model")
    assert model_source("owner/other") == "owner/other"
    assert model_source("gpt2") == "gpt2"


def test_capacities():
    def layers_of(layers, method="leff"):
        config = load_config(None, {"clients.count": 5})
        clients = config.clients.model_copy(update={"layers": layers})  # 0 is no valid option
        return client_layers(config.model_copy(update={"clients": clients}), spec_of(method), 3)

    assert layers_of([1, 3]) == (1, 3, 1, 3, 1)
    assert layers_of([1, 3], "fedavg") == (3, 3, 3, 3, 3)
    for layers, wrong in (([1, 4], 4), ([0], 0)):
        with pytest.raises(ConfigError, match=f"must be 1 to 3, .*, got {wrong}"):
            layers_of(layers)


def test_a_report_has_layers_examples_and_budgets():
    clients = load_config(None, {"clients.count": 3, "clients.memory": ["2kB", "5kB"]}).clients
    assert client_reports(clients, (1, 2, 1), (10, 20, 30), (1, 0, 2)) == [
        Capacity(0, 1, 10, 2000, validation=1),
        Capacity(1, 2, 20, 5000),
        Capacity(2, 1, 30, 2000, validation=2),
    ]


def test_devices():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cpuu", "cuda:99", "meta", "", "cpu:7", "hpu", "privateuseone", "cuda:1:1"):
        with pytest.raises(ConfigError, match=r"engine.device = .* use 'auto'"):
            torch_device(name)


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with pytest.raises(ValueError), pinned_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError
    assert torch.get_num_threads() == before


def test_a_checkpoint_of_another_model(tiny_gpt2):
    from leff.models import full_state, load_model

    model, _ = load_model(tiny_gpt2, "generation")
    state = {name: tensor + 1 for name, tensor in full_state(model).items()}
    restore(model, Checkpoint(1, state, {}, {}))
    assert all(torch.equal(full_state(model)[name], state[name]) for name in state)
    bias = state["transformer.ln_f.bias"]
    state["transformer.ln_f.bias"] = bias[:-1]
    with pytest.raises(CheckpointError, match=r"of another model \(transformer.ln_f.bias\)"):
        restore(model, Checkpoint(1, state, {}, {}))
    del state["transformer.ln_f.bias"]
    with pytest.raises(CheckpointError, match=r"of another model \(transformer.ln_f.bias\)"):
        restore(model, Checkpoint(1, state, {}, {}))


def test_no_machine_path_in_the_saved_model(tmp_path, tiny_gpt2):
    run = leff.run(**table_options(tmp_path, "generation", tiny_gpt2), out=tmp_path / "run")
    texts = [p.read_text() for p in Path(run.model).glob("*.json") if p.name != "tokenizer.json"]
    assert not any(str(tmp_path) in text or str(tiny_gpt2) in text for text in texts)


def test_a_run_in_which_no_update_can_be_used_fails(tmp_path, tiny_gpt2):
    config = load_config(None, options(tiny_gpt2, method__name="fedavg"))
    diverging = config.training.model_copy(update={"learning_rate": 1e38})  # no option may say so
    with pytest.raises(
        RunError, match=r"no client's update could be used .* training.learning_rate"
    ):
        leff.run(config.model_copy(update={"training": diverging}), out=tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_budget_that_nothing_fits_is_refused_before_any_work(tmp_path, tiny_gpt2):
    changes = {"context__name": "auto", "clients__memory": ["1GB", "10kB"]}
    config = load_config(None, table_options(tmp_path, "generation", tiny_gpt2, **changes))
    with pytest.raises(ConfigError, match=r"within 10,000 bytes; the least that would do is"):
        prepare(config, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("every", "last", "measured"),
    [
        (2, 1, {2, 4, 5}),
        (100, 1, {5}),
        (100, 2, {4, 5}),
        (3, 2, {3, 4, 5}),
        (100, 9, {1, 2, 3, 4, 5}),
    ],
)
def test_every_so_many_rounds_and_the_last_are_measured(every, last, measured, tmp_path):
    changes = {"evaluation__every": every, "evaluation__last": last, "training__rounds": 5}
    run = leff.run(**least(tmp_path, **changes), out=tmp_path / "run")
    assert {r.round for r in run.records()[1:] if r.metric is not None} == measured


def test_the_plug_in_gap_is_in_the_record(tmp_path, tiny_gpt2):
    changes = {
        "context__name": "drop",
        "evaluation__gap_clients": 1,
        "evaluation__gradient_error": True,
        "clients__layers": [1],
    }
    options = table_options(tmp_path, "generation", tiny_gpt2, **changes)
    run = leff.run(**options, out=tmp_path / "run")
    for record in run.records()[1:]:
        (found,) = record.plug_in
        assert found["gap"] == pytest.approx(found["full_after"] - found["stand_in_after"])
        assert record.plug_in_gap == found["gap"] and found["gradient_error"] > 0
        (client,) = [c for c in record.clients if c.client == found["client"]]
        assert list(client.layers) == found["layers"] and client.state_bytes > 0
        assert len(client.layer_scores) == 1
