"""The local fleet: what is downloaded, what is kept, and workers that change nothing."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from small_rounds import (
    CPU,
    clients_of,
    federate,
    fleet_of,
    job_of,
    make_method,
    run_rounds,
    same,
    state_of,
)
from tiny_models import tiny

from leff.client import train as client
from leff.engines import local
from leff.engines.local import worker_count
from leff.errors import RunError
from leff.models.hardware import pinned_threads
from leff.server import Server
from leff.wire.messages import Capacity
from leff.wire.spool import Spool

GPT2 = ("gpt2", "generation")


def fleet_with(store, sizes=(5, 6), capacities=(1, 2), workers=1):
    return fleet_of(clients_of("generation", sizes), capacities, store, CPU, workers)


def done(model, fleet, server, job):
    """The update of a job that the server sent out."""
    server.open(model, [job], fleet.report([job.client]))
    (update,) = (server.receive(each) for each in fleet.train([job]))
    return update


def test_report_says_capacity_and_examples(store):
    fleet = fleet_with(store)
    assert list(fleet.clients()) == [0, 1]
    assert fleet.report([1, 0]) == [Capacity(1, 2, 6), Capacity(0, 1, 5)]


def test_only_what_a_client_does_not_hold_is_downloaded(store, tmp_path):
    model, fleet = tiny(*GPT2), fleet_with(store, (5,) * 4, (1,) * 4)
    server = Server(store, Spool(tmp_path / "u"))
    job = job_of(model, "generation", store, range(1, 3))
    sizes = {part.digest: part.size_bytes for part in job.parts}
    assert done(model, fleet, server, job).download_bytes == sum(sizes.values())
    assert done(model, fleet, server, replace(job, round=1)).download_bytes == 0
    with torch.no_grad():
        model.transformer.h[2].ln_1.bias.add_(1)  # one layer moves
    third = done(model, fleet, server, job_of(model, "generation", store, range(1, 3)))
    assert third.download_bytes == job.segments[0].parts[1].size_bytes


def test_a_part_that_occurs_twice_is_downloaded_once(store, tmp_path):
    model = tiny(*GPT2)
    with torch.no_grad():
        model.transformer.h[1].load_state_dict(model.transformer.h[0].state_dict())
    job = job_of(model, "generation", store, range(0, 2))
    fleet, server = fleet_with(store, (5,) * 4, (1,) * 4), Server(store, Spool(tmp_path / "u"))
    update = done(model, fleet, server, job)
    one = job.segments[0].parts[0].size_bytes
    assert update.download_bytes == job.shell.size_bytes + job.tail.size_bytes + one


def test_the_second_round_does_not_resend_the_shell(tmp_path):
    _, (first, second) = federate("fedavg", GPT2, tmp_path, capacities=(1, 1, 1))
    model = tiny(*GPT2)
    shell = 4 * sum(t.numel() for n, t in model.named_parameters() if "transformer.w" in n)
    for a, b in zip(first["clients"], second["clients"], strict=True):
        assert 0 < shell <= a["download_bytes"] - b["download_bytes"] < shell + 2000
        assert b["download_bytes"] > 0


def test_what_clients_hold_survives_a_restart(store, tmp_path):
    import json

    model, fleet = tiny(*GPT2), fleet_with(store, (5,) * 4, (1,) * 4)
    job = job_of(model, "generation", store, range(1))
    server, resumed = (Server(store, Spool(tmp_path / name)) for name in ("a", "b"))
    assert done(model, fleet, server, job).download_bytes > 0
    resumed.load_state(json.loads(json.dumps(server.state())))
    assert done(model, fleet, resumed, job).download_bytes == 0
    assert resumed.state() == server.state()


def test_the_store_holds_the_parts_of_one_round(tmp_path, store):
    model, fleet = tiny(*GPT2), fleet_with(store, sizes=(5, 5, 5), capacities=(1, 1, 1))
    method = make_method("leff", "generation", store)
    sizes = []
    for index in range(4):
        jobs = []
        original = fleet.train
        fleet.train = lambda j, original=original, jobs=jobs: jobs.extend(j) or original(j)
        run_rounds(model, method, fleet, tmp_path, 1, seed=index, share=0.4)
        fleet.train = original
        needed = {part.digest for job in jobs for part in job.parts}
        assert {path.name for path in store.folder.iterdir()} == needed
        sizes.append(len(needed))
    assert max(sizes) <= 2 + 4


@pytest.mark.slow
@pytest.mark.parametrize("context", ["drop", "quantise"])
def test_two_workers_give_the_same_as_one(context, tmp_path):
    options = {"capacities": (1, 2, 3), "context": context}
    one, first = federate("leff", GPT2, tmp_path / "one", **options)
    two, second = federate("leff", GPT2, tmp_path / "two", workers=2, **options)
    assert same(state_of(one), state_of(two))
    assert [r["download_bytes"] for r in first] == [r["download_bytes"] for r in second]
    assert [r["train_loss"] for r in first] == [r["train_loss"] for r in second]


def test_number_of_workers():
    cuda = torch.device("cuda")
    assert worker_count(3, CPU, 1) == 3 and worker_count(2, cuda, 1) == 2
    assert worker_count(0, cuda, 1) == 1
    assert 1 <= worker_count(0, CPU, 1) <= 4
    assert worker_count(0, CPU, 10_000) == 1


def test_more_workers_than_the_machine_can_bear_are_lowered(store, monkeypatch, caplog):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    assert worker_count(8, CPU, 1) == 8 and not caplog.records
    assert worker_count(1024, CPU, 1) == 8
    assert "engine.workers = 1024 is too many for 2 cores: 8" in caplog.text
    assert fleet_with(store, workers=8)._workers == 2  # it has two clients


def test_a_client_that_raises_is_a_refused_update(store, monkeypatch, caplog):
    model, fleet = tiny(*GPT2), fleet_with(store)
    job = job_of(model, "generation", store, range(1, 3))
    jobs = [replace(job, client=client) for client in (0, 1)]
    real = client.train

    def train(job, *arguments):
        if job.client == 0:
            raise IndexError("no row 12")
        return real(job, *arguments)

    monkeypatch.setattr(client, "train", train)
    broken, whole = fleet.train(jobs)
    assert broken.failure == "training failed with IndexError" and not broken.payload
    assert broken.examples == 5 and broken.layers == (1, 2)
    assert whole.failure is None
    assert "client 0 failed in round 1" in caplog.text


def count_threads(part):
    raise type(f"Threads{torch.get_num_threads()}", (ValueError,), {})


@pytest.mark.slow
def test_workers_have_the_threads_of_the_main_process(store, monkeypatch):
    """Their number changes the last bits, and a worker would take it from its environment."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    model, fleet = tiny(*GPT2), fleet_with(store, workers=2)
    job = job_of(model, "generation", store, range(1, 3))
    monkeypatch.setattr(store, "get", count_threads)
    with pinned_threads(3):
        updates = fleet.train([replace(job, client=client) for client in (0, 1)])
        assert [update.failure for update in updates] == ["training failed with Threads3"] * 2


def test_a_round_that_breaks_stops_its_clients(tmp_path, store, monkeypatch):
    fleet, closed = fleet_with(store), []
    original = fleet.train

    def train(jobs):
        try:
            yield from original(jobs)
        finally:
            closed.append(True)

    def broken(self, update):
        assert not closed
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "train", train)
    monkeypatch.setattr(Server, "receive", broken)
    with pytest.raises(KeyboardInterrupt) as error:  # which holds the frames, as it does in a run
        run_rounds(tiny(*GPT2), make_method("fedavg", "generation", store), fleet, tmp_path, 1)
    assert closed and error


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_a_clear_error(store, monkeypatch):
    model, fleet = tiny(*GPT2), fleet_with(store, workers=2)
    job = job_of(model, "generation", store, range(1, 3))
    monkeypatch.setattr(local, "_pinned", die)
    with pytest.raises(RunError, match=r"a worker process was killed.*engine\.workers = 1"):
        list(fleet.train([replace(job, client=client) for client in (0, 1)]))
