"""Memory that runs out on a client: told apart, reported, and less from then on."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_rounds import TRAINING, clients_of, fleet_of, job_of, recipe, with_settings
from tiny_models import LAYERS, tiny

from leff.capacity.peak import predict, predict_job
from leff.capacity.schedule import Limits
from leff.capacity.sizes import model_sizes
from leff.client import train as client
from leff.client.memory import asked_bytes, is_out_of_memory
from leff.methods.method import RoundContext
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup
from leff.round import run_round
from leff.server import Server
from leff.wire.messages import Step
from leff.wire.spool import Spool

HERE = Path(__file__).parents[1]
KIND = "generation"
CPU_ERROR = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 4194304 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA_ERROR = "CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has a total capacity of ..."


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), 0),
        (RuntimeError(CPU_ERROR), 4194304),
        (
            RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 12 bytes."),
            12,
        ),
        (torch.cuda.OutOfMemoryError(CUDA_ERROR), 3 * 2**29),
        (OSError(12, "Cannot allocate memory"), 0),
    ],
)
def test_what_says_that_memory_ran_out(error, asked):
    assert is_out_of_memory(error) and asked_bytes(error) == asked
    wrapped = ValueError("loading failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("not enough memory to forget"), KeyError(1)]
)
def test_what_does_not(error):
    assert not is_out_of_memory(error)


def test_memory_that_really_runs_out(tmp_path):
    """In a process with little address space: the failure, and the next round after a restart."""
    path = os.pathsep.join([str(HERE), str(HERE / "families"), *sys.path])
    done = subprocess.run(
        [sys.executable, str(HERE / "starved.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    starved, after = json.loads(done.stdout)
    broken, whole = starved["clients"]
    assert whole["failure"] is None and starved["failures"] == 1
    said = re.match(r"out of memory: ([\d,]+) bytes held and asked for", broken["failure"])
    assert said and broken["out_of_memory_bytes"] == int(said[1].replace(",", ""))
    assert f"; {broken['predicted_bytes']:,} bytes were predicted" in broken["failure"]
    assert 0 < broken["out_of_memory_bytes"] < broken["predicted_bytes"]
    assert [client["capacity"] for client in after["clients"]] == [2, 1]
    assert after["failures"] == 0 and len(after["clients"][0]["layers"]) == 2


ASKED = ClientSetup(rank=3, step=Step(batch_size=4), length=12)


@pytest.fixture
def server(store, tmp_path):
    return server_of(store, tmp_path)


def server_of(store, tmp_path):
    limits = Limits(model_sizes(tiny("gpt2", KIND), KIND), ASKED)
    return Server(store, Spool(tmp_path / "u"), limits)


def rounds(method, fleet, server, model, count, training=TRAINING):
    contexts = [RoundContext(i, 0, training) for i in range(count)]
    return [run_round(model, method, fleet, each, server).to_dict() for each in contexts]


@pytest.fixture
def limited(monkeypatch):
    """Client 0 has so many bytes for the peak of a step, whatever it says."""
    real, limit = client.train, {}

    def train(job, *arguments):
        if job.client == 0 and predict_job(job, ASKED).peak > limit["bytes"]:
            raise RuntimeError(CPU_ERROR)
        return real(job, *arguments)

    monkeypatch.setattr(client, "train", train)
    return limit


def capacities(records, key="capacity"):
    by_client = [{c["client"]: c for c in record["clients"]} for record in records]
    return [found[0][key] if 0 in found else "out" for found in by_client]


def test_a_client_without_a_budget_loses_layers_then_is_lean_then_sits_out(store, server, limited):
    model = tiny("gpt2", KIND)
    made = recipe("leff", model, KIND, store, context__bits=8, clients__count=2)
    fleet = fleet_of(clients_of(KIND, (5, 5)), (3, 1), store)
    limited["bytes"] = 0
    records = rounds(made, fleet, server, model, 8, with_settings(batch_size=2))
    seen = capacities(records)
    given = seen[: seen.index("out")]
    assert given[:3] == [3, 2, 1] and set(given[3:]) <= {1} and set(seen[len(given) :]) == {"out"}
    predicted = capacities(records, "predicted_bytes")[: len(given)]
    assert predicted == sorted(predicted, reverse=True) and len(set(predicted)) == len(predicted)
    assert capacities(records, "checkpointing")[len(given) - 1]
    assert [record["failures"] for record in records] == [int(each != "out") for each in seen]
    assert "its memory ran out where" in records[-1]["sat_out"]["0"]
    assert all(c["failure"] is None for r in records for c in r["clients"] if c["client"] == 1)


def test_a_budget_falls_below_what_failed_and_survives_a_restart(store, server, tmp_path, limited):
    model = tiny("gpt2", KIND)
    budget = {"clients__memory": ["1GB"], "context__name": "auto", "context__steps": 1}
    budget |= {"context__embedding_bits": 32, "training__batch_size": 4, "data__max_length": 12}
    made = recipe("leff", model, KIND, store, clients__count=2, **budget)
    fleet = fleet_of(clients_of(KIND, (5, 5)), (4, 4), store, budgets=[(10**9, None)] * 2)
    whole = replace(ASKED, layers=LAYERS)
    limited["bytes"] = predict(model.config, KIND, spec_of("leff"), whole).peak - 1
    records = rounds(made, fleet, server, model, 2)
    memory, predicted = capacities(records, "memory_bytes"), capacities(records, "predicted_bytes")
    assert memory == [10**9, predicted[0] - 1]
    assert predicted[1] < predicted[0]
    assert capacities(records, "accumulation") == [1, 2]
    assert capacities(records, "layers") == [list(range(LAYERS))] * 2
    assert [record["failures"] for record in records] == [1, 0]
    resumed, reports = server_of(store, tmp_path), fleet.report([0, 1])
    resumed.load_state(json.loads(json.dumps(server.state())))
    lowered, unfit = server.believed([0, 1], reports, LAYERS)
    assert resumed.believed([0, 1], reports, LAYERS) == (lowered, unfit)
    assert lowered != reports and not unfit
    assert resumed.state() == server.state()


@pytest.mark.parametrize("name", ["fedavg", "fedlora"])
def test_a_method_with_one_size_of_job_is_done_leaner_first(name, store, server, limited):
    model = tiny("gpt2", KIND)
    made = recipe(name, model, KIND, store, clients__count=2)
    fleet = fleet_of(clients_of(KIND, (5, 5)), (3, 1), store)
    lean = replace(ASKED, step=replace(ASKED.step, accumulation=4))
    limited["bytes"] = predict(model.config, KIND, spec_of(name), lean).peak
    records = rounds(made, fleet, server, model, 3)
    assert capacities(records, "accumulation") == [1, 2, 4]
    assert [record["failures"] for record in records] == [1, 1, 0]
    assert all(c["failure"] is None for c in records[2]["clients"])


def test_another_failure_lowers_nothing(store, server, monkeypatch):
    model = tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (5, 5, 5, 5)), (3,) * 4, store)
    reports = fleet.report([3])

    def train(job, *arguments):
        raise IndexError("no row 12")

    monkeypatch.setattr(client, "train", train)
    job = replace(job_of(model, KIND, store, range(3)), predicted_bytes=100)
    server.open(model, [job], reports)
    (update,) = (server.receive(each) for each in fleet.train([job]))
    assert update.failure == "training failed with IndexError" and not update.out_of_memory_bytes
    server.close()
    assert server.believed([3], fleet.report([3]), LAYERS) == (reports, {})
