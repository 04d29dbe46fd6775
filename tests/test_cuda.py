"""Runs on a GPU: the same as on the CPU, up to rounding.  They are skipped where there is none.

A GPU adds up in another order, so weights after some steps agree to a tolerance, not to the bit.
"""

import json
import math
import shutil
from typing import Any

import pytest
import torch
from small_rounds import (
    CPU,
    TRAINING,
    clients_of,
    fleet_of,
    make_method,
    proxy,
    recipe,
    run_rounds,
    state_of,
    undropped,
    with_settings,
)
from tiny_models import tiny
from tiny_runs import Killed, options, raises

import leff
from leff.methods.importance import layer_scores
from leff.methods.method import RoundContext
from leff.runs import federation
from leff.runs.config import load_config
from leff.wire.parts import PartStore

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
GPU = torch.device("cuda")
SIZES, CAPACITIES = (5, 3, 6), (1, 2, 4)
MODELS = {"gpt2": "generation", "deberta-v3": "classification", "llama": "generation"}
METHODS = ["fedavg", "fedbitfit", "fedlora", "slora", "flora", "flexlora"]
"""The others than leff, which comes by its contexts."""
CONTEXTS = [
    ("quantise", {"bits": 32}),
    ("quantise", {"bits": 16}),
    ("quantise", {"bits": 8}),
    ("quantise", {"bits": 4}),
    ("drop", {}),
    ("distil", {"steps": 3}),
    ("distil", {"steps": 3, "bits": 4}),
]


@pytest.fixture(autouse=True)
def full_precision():
    """Products in fp32, not in TF32's 10 bits."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def model_on(name: str, device: torch.device) -> Any:
    return undropped(tiny(name, MODELS[name])).to(device)


def moved(batches: Any, device: torch.device) -> Any:
    return [{n: tensor.to(device) for n, tensor in batch.items()} for batch in batches]


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Return the distance of two models' weights.

    Of all of them together: AdamW moves a weight whose gradient is rounding alone (a key's bias)
    by the learning rate, in a direction that is rounding too.
    """
    assert a.keys() == b.keys()
    squares = ((a[n].cpu().double() - b[n].cpu().double()).square().sum() for n in a)
    return math.sqrt(sum(float(square) for square in squares))


def trained_on(device, name, folder, make, training=TRAINING) -> tuple[Any, list[dict[str, Any]]]:
    """Return a model after two rounds, and the records."""
    model, store = model_on(name, device), PartStore(folder / str(device) / "parts")
    fleet = fleet_of(clients_of(MODELS[name], SIZES), CAPACITIES, store, device)
    method = make(model, store, device)
    records = run_rounds(model, method, fleet, folder / str(device), training=training)
    failures = [client["failure"] for record in records for client in record["clients"]]
    assert not any(failures), failures
    assert {p.device.type for p in model.parameters()} == {device.type}
    return model, records


def check_both(name, folder, make, training=TRAINING, on_gpu=None) -> None:
    start = state_of(model_on(name, CPU))
    plain, _ = trained_on(CPU, name, folder, make, training)
    other, _ = trained_on(GPU, name, folder, make, on_gpu or training)
    moved_by = distance(start, state_of(plain))
    assert moved_by > 0.01
    assert distance(state_of(plain), state_of(other)) < 0.1 * moved_by


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_methods_train_as_on_the_cpu(tmp_path, method, name):
    if (method, name) == ("fedbitfit", "llama"):
        pytest.skip("llama has no biases")

    def make(model, store, device):
        return recipe(method, model, MODELS[name], store)

    check_both(name, tmp_path, make)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_quantised_base_trains_as_on_the_cpu(tmp_path, bits):
    def make(model, store, device):
        return recipe("fedlora", model, "generation", store, method__base_bits=bits)

    check_both("gpt2", tmp_path, make)


@pytest.mark.parametrize(("context", "settings"), CONTEXTS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_contexts_train_as_on_the_cpu(tmp_path, monkeypatch, name, context, settings):
    def make(model, store, device):
        own = moved(proxy(MODELS[name]), device)
        monkeypatch.setattr("small_rounds.proxy", lambda kind, count=3: own)
        # a classifier's importance draws labels, which a GPU draws otherwise
        return make_method("leff", MODELS[name], store, context, sampling="random", **settings)

    check_both(name, tmp_path, make)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation": 2, "checkpointing": True},
        {"optimizer": "adamw8bit"},
        {"proximal": 0.1},
    ],
    ids=str,
)
def test_leaner_steps_train_as_on_the_cpu(tmp_path, changes):
    def make(model, store, device):
        return recipe("fedavg", model, "generation", store)

    check_both("gpt2", tmp_path, make, with_settings(**changes))


def test_half_precision_is_near(tmp_path):
    def make(model, store, device):
        return recipe("fedavg", model, "generation", store)

    plain, half = (
        with_settings(precision=precision, learning_rate=1e-3)
        for precision in ("float32", "bfloat16")
    )
    check_both("gpt2", tmp_path, make, plain, on_gpu=half)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_scores_are_those_of_the_cpu(name):
    scores = [
        layer_scores(model_on(name, device), moved(proxy("generation"), device), seed=0)
        for device in (CPU, GPU)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


def test_a_run_says_where_it_was_and_its_model_writes(tmp_path, tiny_gpt2):
    values = options(tiny_gpt2, engine__device="cuda", evaluation__gradient_error=True)
    run = leff.run(load_config(None, values), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["device"] == "cuda"
    records = run.records()
    assert not any(client.failure for record in records[1:] for client in record.clients)
    assert math.isfinite(records[-1].loss)
    (text,) = leff.generate(run.folder, ["place: fen"], max_new_tokens=6)
    assert isinstance(text, str)


def test_a_resumed_run_is_near_one_that_was_not_cut(tmp_path, tiny_gpt2, monkeypatch):
    values = options(tiny_gpt2, engine__device="cuda")
    whole = leff.run(load_config(None, values), out=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(federation.Federation, "_finish", raises)
        with pytest.raises(Killed):
            leff.run(load_config(None, values), out=tmp_path / "cut")
    last = sorted((tmp_path / "cut" / "checkpoints").glob("round-*"))[-1]
    shutil.rmtree(last)
    resumed = leff.resume(tmp_path / "cut")
    assert resumed.records()[-1].loss == pytest.approx(whole.records()[-1].loss, rel=1e-4)


def test_a_client_that_runs_out_of_memory_says_so(tmp_path):
    """A step that asks for more than any card has fails on the client, and the round goes on."""
    store = PartStore(tmp_path / "parts")
    model = model_on("gpt2", GPU)
    fleet = fleet_of(clients_of("generation", SIZES), CAPACITIES, store, GPU)
    method = recipe("fedavg", model, "generation", store)
    jobs = method.plan(model, RoundContext(0, 0, TRAINING), fleet.report([0, 1])).jobs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leff.client.train.local_steps", asks_for_too_much)
        updates = list(fleet.train(jobs))
    assert all("out of memory" in update.failure for update in updates)
    assert all(update.out_of_memory_bytes > 2**40 for update in updates)


def asks_for_too_much(*_: Any) -> None:
    torch.empty(2**42, dtype=torch.uint8, device=GPU)
