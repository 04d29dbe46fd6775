"""What clients send back: the start that both sides take, feedback, and failures."""

from dataclasses import replace

import pytest
import torch
from small_rounds import (
    CASES,
    CPU,
    TRAINING,
    job_of,
    random_examples,
    recipe,
    same,
    whole,
)
from tiny_models import tiny

from leff.client.model import prepared
from leff.client.residuals import Residuals
from leff.client.train import train
from leff.client.upload import first_values, packed
from leff.methods.checks import expected_shapes
from leff.methods.method import RoundContext
from leff.server import Server
from leff.wire.codec import rebuild
from leff.wire.headers import packed_bytes
from leff.wire.messages import Capacity
from leff.wire.spool import Spool
from leff.wire.tensors import unpack

KIND = "generation"
ROUNDED = ("bf16", "int8")


def check_start(server, model, job, store):
    """The client trains, the client subtracts and the server adds the same values, to the bit."""
    _, trained = prepared(job, store.get, CPU)
    trained = {name: parameter.detach() for name, parameter in trained.items()}
    first = first_values(job, store.get)
    server.open(model, [job], [Capacity(job.client, 1, 5)])
    start = server._start(job.client)
    assert trained.keys() == expected_shapes(model, job).keys()
    assert same({n: first[n] for n in trained}, trained)
    assert same({n: start[n] for n in trained}, trained)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_both_sides_start_from_the_same_block(case, store, tmp_path):
    model, server = tiny(*case), Server(store, Spool(tmp_path / "u"))
    for block in (range(0, 1), range(1, 3), range(0, 4)):
        check_start(server, model, whole(model, case[1], store, block), store)


@pytest.mark.parametrize("name", ["fedbitfit", "fedlora", "slora", "flora", "flexlora"])
def test_both_sides_start_from_the_same_tuned_tensors(name, store, tmp_path):
    model, server = tiny("gpt2", KIND), Server(store, Spool(tmp_path / "u"))
    made = recipe(name, model, KIND, store)
    reports = [Capacity(client, 4, 5) for client in range(3)]
    plan = made.plan(model, RoundContext(0, 0, TRAINING), reports)
    check_start(server, model, plan.jobs[1], store)


@pytest.mark.parametrize("upload", ROUNDED)
def test_a_rounded_upload_is_near_the_whole_one(upload, store, tmp_path):
    model, examples = tiny("gpt2", KIND), random_examples(KIND, 9)
    job = whole(model, KIND, store, range(1, 3))
    full = unpack(train(job, store.get, examples, CPU).payload)
    update = train(replace(job, upload=upload), store.get, examples, CPU)
    shapes, start = expected_shapes(model, job), dict(model.named_parameters())
    assert len(update.payload) == update.upload_bytes == packed_bytes(shapes, upload)
    assert rebuild(update.payload, shapes, upload, start, tmp_path / "x") is None
    for name, tensor in unpack(tmp_path / "x").items():
        changed = (full[name] - start[name]).abs().max()
        assert changed > 0
        assert (tensor - full[name]).abs().max() <= changed * 2**-7


@pytest.mark.parametrize("upload", ROUNDED)
def test_what_was_lost_is_added_the_next_time(upload, store, tmp_path):
    """Two rounds from the same start: what both sent adds up to what both changed, less the last
    rounding."""
    model, examples = tiny("gpt2", KIND), random_examples(KIND, 9)
    residuals, start = Residuals(tmp_path / "r", 2), dict(model.named_parameters())
    job = replace(whole(model, KIND, store, range(1, 2)), upload=upload)
    shapes, sent, changes = expected_shapes(model, job), [], []
    for round in range(2):
        now = replace(job, round=round, seed=round)
        full = unpack(train(replace(now, upload="full"), store.get, examples, CPU).payload)
        changes.append({n: full[n] - start[n] for n in shapes})
        payload = train(now, store.get, examples, CPU, residuals).payload
        zeros = {n: torch.zeros(shape) for n, shape in shapes.items()}
        assert rebuild(payload, shapes, upload, zeros, tmp_path / "x") is None
        sent.append(unpack(tmp_path / "x"))
    first, last = residuals.before(1), residuals.before(2)
    for name in shapes:
        assert torch.equal(sent[0][name] + first[name], changes[0][name])
        both = changes[0][name] + changes[1][name]
        assert torch.allclose(sent[0][name] + sent[1][name] + last[name], both, atol=1e-7)
        assert not torch.equal(first[name], last[name]) or not first[name].any()


def test_residuals_of_layers_that_do_not_train_now_stay(store, tmp_path):
    model, examples = tiny("gpt2", KIND), random_examples(KIND, 9)
    residuals = Residuals(tmp_path / "r", 2)
    for round, block in enumerate((range(0, 1), range(1, 2))):
        job = replace(whole(model, KIND, store, block), upload="int8", round=round)
        train(job, store.get, examples, CPU, residuals)
    before, after = residuals.before(1), residuals.before(2)
    assert before.keys() < after.keys()
    layers = {name for name in before if ".h.0." in name}
    assert layers and all(torch.equal(before[name], after[name]) for name in layers)


def test_the_same_round_again_sends_the_same(store, tmp_path):
    model, examples = tiny("gpt2", KIND), random_examples(KIND, 9)
    residuals, job = Residuals(tmp_path / "r", 2), whole(model, KIND, store, range(1, 2))
    jobs = [replace(job, upload="int8", round=round, seed=round) for round in range(2)]
    first, *others = (train(j, store.get, examples, CPU, residuals).payload for j in jobs + jobs)
    assert others[1] == first and others[0] == others[2]
    assert train(jobs[1], store.get, examples, CPU).payload != others[0]  # without what was lost


def test_residuals_of_another_shape_are_left_out(store, tmp_path):
    model, residuals = tiny("gpt2", KIND), Residuals(tmp_path / "r", 2)
    job = replace(whole(model, KIND, store, range(1, 2)), upload="int8", round=1)
    trained = {n: p.detach() + 0.01 for n, p in prepared(job, store.get, CPU)[1].items()}
    plain = packed(job, trained, store.get)
    residuals.keep(0, {name: torch.ones(3, 3, 3) for name in trained})
    assert packed(job, trained, store.get, residuals) == plain


@pytest.mark.parametrize("upload", ("full", *ROUNDED))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3.4e38])
def test_weights_that_are_not_finite_are_a_failure_and_no_residual(upload, value, store, tmp_path):
    model, residuals = tiny("gpt2", KIND), Residuals(tmp_path / "r", 2)
    job = replace(job_of(model, KIND, store, range(1, 2)), upload=upload)
    trained = {n: p.detach().clone() for n, p in prepared(job, store.get, CPU)[1].items()}
    next(iter(trained.values())).view(-1)[0] = value
    payload, failure = packed(job, trained, store.get, residuals)
    if value > -1e38 or value != value or upload == "bf16":  # bf16 rounds it up to infinity
        assert (payload, failure) == (b"", "a trained weight is not finite")
        assert not (tmp_path / "r").exists()
    else:
        assert payload and failure is None


def test_a_client_that_fails_keeps_its_residuals(store, tmp_path):
    model, residuals = tiny("gpt2", KIND), Residuals(tmp_path / "r", 2)
    job = replace(job_of(model, KIND, store, range(1, 2)), upload="int8")
    assert train(job, store.get, [], CPU, residuals).failure
    assert residuals.before(9) == {}
