"""The five lines of a notebook."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import FLEET, least, options, write_table

import leff
from leff.errors import ConfigError, ModelError
from leff.runs.config import load_config
from leff.runs.options import MethodConfig, RunConfig

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    """A run with its picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        settings = options(tiny_gpt2, evaluation__beams=2)
        return leff.run(**settings, out=tmp_path_factory.mktemp("api") / "run", seed=5)


def test_a_run(run):
    assert run.before.keys() == run.after.keys() >= {"BLEU", "NIST"}
    assert run.result["seed"] == 5 and run.result["task"] == "sample"
    assert [record.round for record in run.records()] == [0, 1, 2, 3]
    assert run.picture.stat().st_size > 10_000 and run.model.is_dir()
    assert run.load_model().config.n_layer == 4


def test_the_final_model_gives_the_results_metric_again(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from leff.tasks.evaluator import Evaluator
    from leff.tasks.sources import sample

    model = AutoModelForCausalLM.from_pretrained(run.model)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    evaluator = Evaluator(sample.load(5), tokenizer, 32, max_new_tokens=6, seed=5)
    assert evaluator.full(model, 6, beams=2) == run.result["after"]
    assert leff.evaluate(run.folder, examples=6) == run.result["after"]


def test_training_did_something(run):
    losses = [record.loss for record in run.records()]
    assert losses[-1] < losses[0]


def test_evaluate_and_generate(run):
    found = leff.evaluate(run.folder, examples=3, beams=1)
    assert found["examples"] == 3 and found["split"] == "test"
    texts = leff.generate(run.folder, ["name: Fen Loop", "x"], max_new_tokens=4)
    assert len(texts) == 2
    assert leff.generate(run.model, ["name: Fen Loop", "x"], max_new_tokens=4) == texts


def test_bare_names_and_sections(tmp_path, tiny_gpt2):
    folder = tmp_path / "run"
    settings = options(tiny_gpt2, data__task="table", clients__partition="iid")
    for name in ("model.name", "training.rounds"):
        del settings[name]
    table = write_table(tmp_path / "t.jsonl", "generation")
    settings["data.train"] = table
    run = leff.run(**settings, out=folder, rounds=1, method="fedavg", model=str(tiny_gpt2))
    assert (run.result["rounds"], run.result["method"]) == (1, "fedavg")
    with pytest.raises(ConfigError, match="give the full name"):
        leff.run(learning_rate=1)
    with pytest.raises(ConfigError, match=r"did you mean 'training.rounds'"):
        leff.run(roundz=1)
    with pytest.raises(ConfigError, match="not both"):
        leff.run(RunConfig(), rounds=1)


def test_a_file_and_a_configuration(tmp_path, tiny_gpt2):
    from leff.runs.toml import commented_toml

    table = write_table(tmp_path / "t.jsonl", "generation")
    config = load_config(
        None,
        options(
            tiny_gpt2,
            data__task="table",
            data__train=table,
            clients__partition="iid",
            training__rounds=1,
        ),
    )
    (tmp_path / "c.toml").write_text(commented_toml(config))
    a = leff.run(config, out=tmp_path / "a")
    b = leff.run(tmp_path / "c.toml", out=tmp_path / "b")
    assert a.result == b.result


def test_workers_find_a_run_whose_folder_is_relative(tmp_path, monkeypatch):
    """They stay from run to run, and keep the working folder of the first."""
    options = least(tmp_path, engine__workers=2, engine__upload="int8", training__rounds=1)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert leff.run(out="run", **options).folder == Path("run")
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["run"]


def test_folders_that_are_no_runs(tmp_path):
    for call in (leff.resume, leff.evaluate):
        with pytest.raises(ConfigError, match="is no run folder"):
            call(tmp_path / "none")
    with pytest.raises(ModelError, match="there is no model at"):
        leff.generate(tmp_path / "none", ["a"])


def test_import_is_quick_and_light():
    code = (
        "import time, sys; start = time.perf_counter(); import leff; leff.run, leff.RunConfig;"
        "print(time.perf_counter() - start);"
        "print([n for n in ('torch', 'transformers', 'flwr', 'flwr_datasets', 'datasets',"
        " 'matplotlib', 'ray') if n in sys.modules])"
    )
    seconds = []
    for _ in range(4):  # the best of a few: other programs may have the cores
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        taken, loaded = done.stdout.split("\n")[:2]
        assert loaded == "[]"
        seconds.append(float(taken))
        if seconds[-1] < 0.5:
            break
    assert min(seconds) < 0.5


def test_names_at_the_top():
    assert set(leff.__all__) <= set(dir(leff))
    assert all(getattr(leff, name) is not None for name in leff.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        leff.nothing  # noqa: B018


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return the configuration that `leff.run` would start with."""
    monkeypatch.setattr("leff.api._finish", lambda folder, config, *_: config)
    return lambda **options: leff.run(out=tmp_path / "asked", **options)


def test_values_as_python_has_them(asked, tmp_path):
    config = asked(
        rounds=np.int64(3),
        epochs=np.float32(0.5),
        checkpointing=np.bool_(True),
        layers=np.array([1, 2]),
        memory=("64MB", 10**8),
        **{"data.folder": tmp_path, "clients.alpha": torch.tensor(2.0)},
    )
    assert config.training.rounds == 3 and config.training.epochs == 0.5
    assert config.training.checkpointing and config.clients.layers == [1, 2]
    assert config.clients.memory == ["64MB", "100000000"] and config.data.folder == tmp_path
    assert config.clients.alpha == 2.0


def test_sections_as_python_has_them(asked):
    training = {"rounds": 3}
    config = asked(training=training, **{"training.epochs": 2.0})
    assert (config.training.rounds, config.training.epochs) == (3, 2.0)
    assert training == {"rounds": 3}  # ours is a copy
    config = asked(preset="paper", method=MethodConfig(rank=4))
    assert (config.method.rank, config.method.scale) == (4, "literal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": True}, "training.rounds must be a whole number, got True"),
        ({"rounds": "3"}, "training.rounds must be a whole number, got '3'"),
        ({"rounds": np.array([3])}, "training.rounds must be a whole number, got [3]"),
        ({"rounds": np.float64(3)}, "training.rounds must be a whole number, got 3.0"),
        (
            {"epochs": np.float64("nan")},
            "training.epochs must be a number above 0 and at most 10000, or 'auto', got nan",
        ),
        ({"model": b"gpt2"}, "model is a section, got b'gpt2'; did you mean model.name?"),
        ({"model": object}, "model is a section, got <class 'object'>"),
        ({"data.columns": {1: "a"}}, "data.columns.1.'[key]' must be text, got 1"),
        ({"data.folder": b"x"}, "data.folder must be a path, got b'x'"),
    ],
)
def test_values_that_python_should_not_have(options, message, asked):
    with pytest.raises(ConfigError) as caught:
        asked(**options)
    assert message in str(caught.value)


def test_a_table_within_itself(asked):
    columns = {}
    columns["input"] = columns
    with pytest.raises(ConfigError, match="nested in 20 levels, no more"):
        asked(**{"data.columns": columns})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leff.generate("x", ["a"], beams=0), "beams must be a whole number from 1 to 128"),
        (lambda: leff.generate("x", ["a"], beams=10**6), "beams must be a whole number from 1"),
        (lambda: leff.generate("x", ["a"], max_new_tokens=2.5), "max_new_tokens must be a whole"),
        (lambda: leff.generate("x", "a text"), "inputs must be a list of texts, got the text"),
        (lambda: leff.evaluate("x", examples=-1), "examples must be a whole number from 1"),
        (lambda: leff.evaluate("x", beams=True), "beams must be a whole number from 1"),
        (lambda: leff.mmlu("x", batch_size=0), "batch_size must be a whole number from 1"),
    ],
)
def test_numbers_that_no_function_takes(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_runs_beside_each_other(run, tiny_gpt2, tmp_path):
    other = leff.run(**options(tiny_gpt2, method__name="fedavg"), out=tmp_path / "other", seed=5)
    found = leff.compare([run.folder, str(other.folder)])
    assert found["method.name"] == ["leff", "fedavg"]
    assert found["test BLEU"] == [run.after["BLEU"], other.after["BLEU"]]
    assert found["upload_bytes"][0] < found["upload_bytes"][1]
    assert "seed" not in found  # the same in both
    with pytest.raises(ConfigError, match="two runs or more"):
        leff.compare([run.folder])


def test_a_plan_of_a_method_of_a_budget_and_of_a_fleet(tiny_gpt2, tmp_path):
    given = leff.plan(tiny_gpt2, layers=2, context="drop", max_length=16)
    assert (given["block_layers"], given["context"]) == (2, "drop")
    assert given["step"]["length"] == 16
    assert leff.plan(tiny_gpt2, method="fedavg")["block_layers"] == 4
    chosen = leff.plan(tiny_gpt2, memory="1GB")
    assert chosen["layers"] == 4 and chosen["options"]["clients.layers"] == [4]
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET)
    phone = leff.plan(tiny_gpt2, fleet=str(fleet), time="30s")["classes"]["phone"]
    assert phone["layers"] == 4 and phone["round_seconds"] < 30
    one = leff.plan(tiny_gpt2, device=fleet, up="1Mbit/s")
    assert one["class"] == "phone" and one["upload_seconds"] > phone["upload_seconds"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"method": "fedag"}, "did you mean 'fedavg'"),
        ({"layers": 5}, "layers must be 1 to 4"),
        ({"memory": "1GB", "context": "drop"}, "leave out"),
        ({"memory": "1GB", "flops": "1G", "time": "3s"}, "--flops says"),
        ({"time": "3s"}, "--memory"),
        ({"max_lenght": 8}, "did you mean"),
        ({"fleet": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_a_plan_that_cannot_be(given, reason, tiny_gpt2):
    with pytest.raises(ConfigError, match=reason):
        leff.plan(tiny_gpt2, **given)
