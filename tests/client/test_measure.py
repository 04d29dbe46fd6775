"""One client's measurement: the full model's figures, in every family and kind."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_rounds import CPU, PAD, random_examples, same, state_of
from tiny_models import tiny
from torch import nn

from leff.client import measure as client
from leff.client.deadline import Deadline
from leff.client.measure import examples_of, measure, measure_or_fail, sharpness
from leff.errors import RunError
from leff.methods.jobs import JobWriter, measure_jobs
from leff.methods.level import head_step
from leff.tasks.held_out import held_out_logits, held_out_loss
from leff.wire.messages import FEWEST_HELD_OUT, OFFSETS, Measure

CASES = [
    ("gpt2", "generation"), ("llama", "text"), ("bert", "classification"), ("gpt2", "regression"),
]  # fmt: skip


def job_for(model, kind, store, bits=32):
    (job,) = measure_jobs(JobWriter(store, kind, PAD), model, 4, [2], bits, batch_size=3)
    return job


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_sums_are_those_of_the_full_model(name, kind, store):
    """Also without dropout, though the model was in train mode; the model is left as it was."""
    model, examples = tiny(name, kind).train(), random_examples(kind, 7)
    before = state_of(model)
    found = measure(job_for(model, kind, store), store.get, examples, CPU)
    loss = held_out_loss(model, examples, batch_size=3, pad_id=PAD)
    assert found.loss is not None and found.loss / found.weight == pytest.approx(loss, rel=1e-5)
    assert (found.round, found.client, found.examples) == (4, 2, 7) and found.failure is None
    assert found.seconds > 0 and same(before, state_of(model))
    if kind == "classification":
        logits = held_out_logits(model, examples, batch_size=3, pad_id=PAD)
        for y, row in enumerate(found.confusion):
            for p, count in enumerate(row):
                pairs = zip(examples, logits.argmax(-1), strict=True)
                assert count == sum(e.label == y and guess == p for e, guess in pairs)
    if kind == "regression":
        scores = held_out_logits(model, examples, batch_size=3, pad_id=PAD)[:, 0].double()
        labels = torch.tensor([e.label for e in examples], dtype=torch.float64)
        wanted = (7, scores.sum(), labels.sum(), scores @ scores, labels @ labels, scores @ labels)
        assert found.moments == pytest.approx(tuple(map(float, wanted)))
    else:
        assert found.moments == ()


@pytest.mark.parametrize("bits", [16, 8])
def test_fewer_bits_are_close_and_smaller(bits, store):
    model, examples = tiny("gpt2", "text"), random_examples("text", 5)
    whole, small = (job_for(model, "text", store, each) for each in (32, bits))
    losses = [measure(job, store.get, examples, CPU).loss for job in (whole, small)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert sum(p.size_bytes for p in small.parts) < sum(p.size_bytes for p in whole.parts)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_model_that_is_not_finite_has_no_loss(name, kind, store):
    model = tiny(name, kind)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    found = measure(job_for(model, kind, store), store.get, random_examples(kind, 4), CPU)
    assert found.loss is None and found.failure is None and found.weight > 0
    assert found.confusion == () == found.moments


def test_a_client_without_examples_says_so(store):
    found = measure(job_for(tiny("gpt2", "text"), "text", store), store.get, [], CPU)
    assert found == Measure(4, 2, 0, failure="the client has no validation examples")


def test_an_error_is_a_failure_of_its_type(store, monkeypatch):
    """Its text may hold what the client's data holds."""
    job, examples = job_for(tiny("gpt2", "text"), "text", store), random_examples("text", 3)
    errors = {
        "it failed with ValueError": ValueError("the secret text"),
        "out of memory while it measured": RuntimeError("can't allocate memory: 100 GB"),
    }
    for said, error in errors.items():
        monkeypatch.setattr(client, "client_model", _raising(error))
        assert measure_or_fail(job, store.get, examples, CPU) == Measure(4, 2, 3, failure=said)
    monkeypatch.setattr(client, "client_model", _raising(RunError("the server's part is gone")))
    with pytest.raises(RunError, match="part is gone"):
        measure_or_fail(job, store.get, examples, CPU)


def test_a_client_stops_at_its_deadline(store):
    """In mid-way too: what some examples say is not sent."""
    job, examples = job_for(tiny("gpt2", "text"), "text", store), random_examples("text", 9)
    job = replace(job, batch_size=2)
    full = measure_or_fail(job, store.get, examples, CPU, Deadline(math.inf))
    assert full.failure is None and full.weight > 0
    looks = iter([False, False, True])

    class Passing(Deadline):
        passed = property(lambda self: next(looks))

    found = measure_or_fail(job, store.get, examples, CPU, Passing(0.0))
    assert found == Measure(4, 2, 9, failure="the deadline passed while it measured")
    assert next(looks, None) is None


def _raising(error):
    def raises(*_: object) -> nn.Module:
        raise error

    return raises


def test_the_parts_are_those_of_the_whole_model(store):
    job = job_for(tiny("gpt2", "text"), "text", store)
    assert job.parts == (job.shell, job.tail, *job.segments[0].parts)
    assert replace(job, client=5).parts == job.parts


# Probes


def probe_of(model, kind, store, count, seed=5, bits=32):
    (job,) = measure_jobs(
        JobWriter(store, kind, PAD), model, 4, [2], bits, batch_size=3, probe=count, seed=seed
    )
    return job


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_probe_says_what_the_model_answers_on_average(name, kind, store):
    model, examples = tiny(name, kind).train(), random_examples(kind, 9)
    found = measure(probe_of(model, kind, store, 16), store.get, examples, CPU)
    logits = held_out_logits(model, examples, batch_size=3, pad_id=PAD).double()
    labels = np.array([example.label for example in examples], dtype=float)
    wanted, shares = [[float(logits.mean())]], [labels.mean()]
    if kind == "classification":
        wanted, shares = [], [1 - labels.mean(), labels.mean()]
        for label in (0, 1):
            odds = logits[:, label] - logits[:, 1 - label]
            spread = min(1.0, max(0.01, float(odds.std(correction=0)) / 2))
            wanted.append([float(((odds + by) / spread).sigmoid().mean()) for by in OFFSETS])
    for row, own in zip(found.answers, wanted, strict=True):
        assert row == pytest.approx(own, abs=1e-6)
    assert found.labels == pytest.approx(shares)
    assert (found.examples, found.weight, found.loss) == (9, 9, None)
    assert found.confusion == () == found.moments


@pytest.mark.parametrize("spread", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("share", [0.5, 0.6])
def test_after_a_step_texts_are_divided_as_labels_are_however_sure_the_model_is(spread, share):
    """By plain mean answers, a share of .6 puts all texts of an unsure model into one class."""
    generator = torch.Generator().manual_seed(0)
    margins = spread * torch.randn(2000, generator=generator, dtype=torch.float64) + 3 * spread
    curves = [
        [float(((own + by) / sharpness(own)).sigmoid().mean()) for by in OFFSETS]
        for own in (-margins, margins)
    ]
    said = Measure(1, 0, 2000, answers=tuple(map(tuple, curves)), labels=(1 - share, share))
    first, second = head_step([said], {0: 2000}, 2).tolist()
    found = float((margins + second - first > 0).double().mean())
    assert found == pytest.approx(share, abs=0.04 if spread < 2 else 0.08)


def test_answers_that_are_all_alike_are_sharpened_only_so_far():
    assert float(sharpness(torch.zeros(5))) == pytest.approx(0.01)
    assert float(sharpness(torch.tensor([-9.0, 9.0]))) == 1.0


def test_of_many_examples_a_probe_takes_a_few_others_for_another_seed(store):
    model, examples = tiny("bert", "classification"), random_examples("classification", 50)
    first, again, other = (
        measure(probe_of(model, "classification", store, 16, seed), store.get, examples, CPU)
        for seed in (5, 5, 6)
    )
    assert first.weight == 16 and first.examples == 50 and sum(first.labels) == 1
    assert first.answers == again.answers != other.answers


def test_a_probe_is_of_training_examples_if_few_are_held_out(store):
    """The mean of one or two answers would tell what they are."""
    job = probe_of(tiny("bert", "classification"), "classification", store, 16)
    train, held = (random_examples("classification", count) for count in (30, FEWEST_HELD_OUT))
    assert examples_of(job, train, held) is held
    for few in (held[:-1], []):
        assert examples_of(job, train, few) is train
    assert examples_of(replace(job, probe=0), train, []) == []


def test_a_probe_of_a_model_that_is_not_finite_has_no_answers(store):
    model = tiny("bert", "classification")
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    job = probe_of(model, "classification", store, 16)
    found = measure(job, store.get, random_examples("classification", 5), CPU)
    assert found.answers == () == found.labels and found.failure is None
    assert measure(job, store.get, [], CPU).failure == "the client has no examples"
