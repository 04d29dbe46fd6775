"""`leff plan`: what a method costs, and what a budget has room for."""

import json
import tomllib
from dataclasses import asdict

import pytest

from leff.capacity.plan import client_plan
from leff.errors import ConfigError
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup
from leff.methods.stand_ins import make_context
from leff.models import load_config as known_config
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.runs.plans import choose_plan, planned, predicted
from leff.wire.messages import Step

COUNTED = (
    "trainable_parameters",
    "block_layers",
    "stand_in_layers",
    "step_flops",
    "setup_bytes",
    "download_bytes",
)


def test_defaults_are_a_runs_own():
    run = RunConfig()
    asked = run.context
    setup = ClientSetup(
        context=make_context(asked.name, rate=asked.rate, bits=asked.bits, suffix=asked.suffix),
        embedding_bits=asked.embedding_bits,
        step=Step(batch_size=run.training.batch_size),
        length=run.data.max_length,
    )
    wanted = client_plan(*known_config("gpt2"), spec_of("leff"), setup)
    held = asdict(wanted.footprint)
    total = sum(held["weights"].values())
    assert planned("gpt2", "leff", run) == {
        **{name: held[name] for name in COUNTED},
        "model": "gpt2",
        "kind": "generation",
        "method": "leff",
        "model_layers": 12,
        "model_bytes": wanted.model_bytes,
        "weights": {**held["weights"], "total": total},
        "gradients": wanted.gradients,
        "optimizer": wanted.optimizer,
        "upload_bytes": 4 * held["trainable_parameters"],
        "total_bytes": total + wanted.gradients + wanted.optimizer,
        "context": asked.name,
    }
    fedavg = planned("gpt2", "fedavg", run)
    assert fedavg["context"] is None
    assert fedavg["weights"]["embeddings"] == (50257 + 1024) * 768 * 4


def test_a_prediction_has_its_settings(cli, tiny_gpt2):
    given = ["--batch", 4, "--length", 16, "--precision", "bfloat16", "--accumulation", 2]
    given += ["--optimizer", "adamw8bit", "--checkpointing", "--labelled", 0.5]
    status, text, _ = cli("plan", tiny_gpt2, *given, "--json")
    found = json.loads(text)
    assert status == 0 and found["step"] == {
        "batch_size": 4,
        "length": 16,
        "labelled": 0.5,
        "precision": "bfloat16",
        "accumulation": 2,
        "checkpointing": True,
        "optimizer": "adamw8bit",
    }
    assert found["predicted_bytes"] > found["total_bytes"] > found["weights"]["total"]
    assert found["activations"] > 0 and found["logits"] > 0
    plain = predicted(str(tiny_gpt2), "leff", RunConfig())
    assert plain["optimizer"] == 8 * plain["trainable_parameters"]


STEP = {"training.batch_size": 2, "data.max_length": 16}
SMALL = load_config(None, STEP)


def test_what_is_chosen_is_what_its_options_cost(tiny_gpt2):
    name = str(tiny_gpt2)
    least = _least(name)
    found = choose_plan(name, SMALL, memory=str(int(least * 1.2)))
    assert found["predicted_bytes"] <= least * 1.2
    text = dict(found["options"])
    (layers,) = text.pop("clients.layers")
    again = predicted(name, "leff", load_config(None, {**STEP, **text}), layers=layers)
    assert layers == found["layers"]
    assert again["predicted_bytes"] == found["predicted_bytes"]
    assert again["step_flops"] == found["step_flops"]


def test_a_leaner_step_only_when_the_budget_asks_for_it(tiny_gpt2):
    name = str(tiny_gpt2)
    whole = choose_plan(name, SMALL)
    assert (whole["layers"], whole["assumed_error"]) == (4, 0)
    checkpointed = load_config(None, {**STEP, "training.checkpointing": True})
    assert choose_plan(name, checkpointed, memory="1GB")["options"]["training.checkpointing"]
    plain = choose_plan(name, SMALL, memory=str(whole["predicted_bytes"]))
    assert plain == whole and "training.checkpointing" not in whole["options"]
    lean = choose_plan(name, SMALL, memory=str(_least(name)))
    assert "training.accumulation" in lean["options"]
    budgets = [_least(name), whole["predicted_bytes"] // 2, whole["predicted_bytes"]]
    errors = [choose_plan(name, SMALL, memory=str(size))["assumed_error"] for size in budgets]
    assert errors == sorted(errors, reverse=True)


def _least(name):
    """The budget that the error for one that nothing fits names."""
    with pytest.raises(ConfigError, match=r"within 1,000 bytes; the least .* is ([\d,]+)") as said:
        choose_plan(name, SMALL, memory="1kB")
    return int(str(said.value).split("would do is ")[1].split(" ")[0].replace(",", ""))


def test_as_json_and_for_a_reader(cli, tiny_gpt2):
    status, printed, _ = cli("plan", tiny_gpt2, "--batch", 2, "--memory", "1GB", "--json")
    value = json.loads(printed)
    assert status == 0
    assert value.keys() >= {"layers", "context", "predicted_bytes", "step_flops", "options"}
    status, printed, _ = cli("plan", tiny_gpt2, "--batch", 2, "--memory", "1GB", "--flops", "2T")
    assert status == 0 and f"in place of the others: {value['context']}" in printed
    (command,) = [line for line in printed.splitlines() if line.startswith("leff run")]
    assert f"clients.layers=[{value['layers']}]" in command
    pairs = [pair.split("=", 1) for pair in command.split("--set ")[1:]]
    for key, text in pairs:
        assert key in value["options"] and text.strip()
    assert tomllib.loads(f"x = {dict(pairs)['clients.layers']}")["x"] == [value["layers"]]
    status, printed, _ = cli("plan", tiny_gpt2, "--batch", 2)
    assert status == 0 and "predicted_bytes" in printed and "total_bytes" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "64MBs"], "unknown unit 'MBs'; known are B, kB, MB, GB, KiB, MiB, GiB"),
        (["--flops", "64MB"], "unknown unit 'MB'; known are k, M, G, T"),
        (["--memory", "1GB", "--layers", "2"], "leave out --method, --layers"),
        (["--flops", "1G", "--method", "fedavg"], "leave out --method"),
        (["--context", "distill"], "did you mean 'distil'"),
        (["--memory", "1GB", "--bits", "8"], "--bits, --rank and --base-bits"),
        (["--labelled", "0"], "--labelled must be above 0 and at most 1, got 0"),
        (["--batch", "4", "--accumulation", "3"], "does not divide training.batch_size = 4"),
        (["--precision", "float16"], "training.precision"),
        (["--rate", "0"], "context.rate must be above 0"),
        (["--bits", "5"], "context.bits cannot be 5"),
        (["--layers", "13"], "layers must be 1 to 12 for this gpt2, got 13"),
        (["--method", "slora", "--base-bits", "4"], "--base-bits means nothing to slora, only to"),
        (["--method", "slore", "--base-bits", "4"], "did you mean 'slora'"),
    ],
)
def test_wrong_use(arguments, message, cli):
    status, printed, said = cli("plan", "gpt2", *arguments)
    assert (status, printed) == (2, "") and message in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "fedlora", "--layers", "4"], "--layers means nothing to fedlora"),
        (["--method", "fedavg", "--context", "drop"], "--context means nothing to fedavg"),
        (["--rank", "4"], "--rank means nothing to leff, only to fedlora, slora, flora, flexlora"),
    ],
)
def test_what_means_nothing_to_a_method_is_said(arguments, message, cli, caplog):
    caplog.set_level("INFO", "leff")
    assert cli("plan", "gpt2", *arguments, "--json")[0] == 0 and message in caplog.text


def test_a_frozen_head_does_not_train_and_is_sent_once():
    """Llama-3.1-8B's has 128,256 words of 4,096."""
    free, frozen = (
        planned("llama-3.1-8b", "leff", load_config(None, {"model.train_head": flag}), layers=1)
        for flag in (True, False)
    )
    head = 128_256 * 4_096
    assert free["trainable_parameters"] - frozen["trainable_parameters"] == head
    assert free["upload_bytes"] - frozen["upload_bytes"] == 4 * head
    assert frozen["setup_bytes"] - free["setup_bytes"] == 2 * head


@pytest.mark.parametrize("model", ["gpt2", "deberta-v3-base"])
def test_no_head_to_freeze(model):
    with pytest.raises(ConfigError, match="only a language model's own head"):
        planned(model, "leff", load_config(None, {"model.train_head": False}))
