"""Noise that clients add themselves: its deviation, its clip, and what a device counts."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_rounds import PAD, TRAINING, fleet_of, proxy, random_examples
from tiny_models import tiny

from leff.client.deadline import Deadline
from leff.client.noised import noised
from leff.client.train import train, train_or_fail
from leff.client.upload import first_values
from leff.device.budget import REFUSED, Budget
from leff.errors import CheckpointError
from leff.methods.jobs import JobWriter
from leff.methods.method import RoundContext
from leff.privacy.gaussian import gaussian_epsilon
from leff.privacy.noise import Noise, seeded_key
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.wire.messages import MeasureJob
from leff.wire.own_words import own_words
from leff.wire.tensors import unpack

NOISE = Noise(seeded_key(0))


@pytest.fixture
def job(store):
    """A job of LEFF with clip and noise, and its client's examples."""
    model, examples = tiny("gpt2", "generation"), random_examples("generation", 9)
    writer = JobWriter(store, "generation", PAD, private=True, clip=0.25, noise=2.0)
    config = load_config(None, {"clients.layers": [2], "clients.count": 1})
    method = build_method(config, writer, proxy("generation"), model)
    method.begin(model)
    reports = fleet_of([examples], [2], store).report([0])
    return method.plan(model, RoundContext(0, 0, TRAINING), reports).jobs[0], examples


def changes(job, update, store):
    start = first_values(job, store.get)
    tensors = unpack(update.payload)
    return {name: (tensors[name] - start[name]).double() for name in tensors}


@pytest.mark.parametrize("upload", ["full", "bf16"])
def test_every_value_gets_noise_and_the_rest_is_within_the_clip(upload, job, store):
    job, examples = replace(job[0], upload=upload), job[1]
    update = train(job, store.get, examples, torch.device("cpu"), noise=NOISE)
    quiet = train(replace(job, noise=0.0), store.get, examples, torch.device("cpu"), noise=NOISE)
    plain = train(replace(job, clip=0.0), store.get, examples, torch.device("cpu"))
    if upload == "full":
        clipped, whole = changes(job, quiet, store), changes(job, plain, store)
        norm = np.sqrt(sum(float(each.square().sum()) for each in clipped.values()))
        assert norm == pytest.approx(0.25, rel=1e-4)
        assert np.sqrt(sum(float(each.square().sum()) for each in whole.values())) > 0.25
    own, other = unpack(update.payload), unpack(quiet.payload)
    for name in own:
        drawn = (own[name].double() - other[name].double()).flatten().numpy()
        if len(drawn) > 500:
            assert drawn.std() == pytest.approx(0.5, rel=5 / np.sqrt(2 * len(drawn)) + 0.01)
    assert update.losses is None and update.layer_scores == ()


def test_the_same_result_gets_the_same_noise_and_any_other_its_own(job, store):
    job, _ = job
    start = first_values(job, store.get)
    trained = {name: tensor + 0.01 for name, tensor in start.items()}
    other = {name: tensor + 0.011 for name, tensor in start.items()}

    def drawn(job, trained, noise=NOISE):
        quiet = noised(replace(job, noise=0.0), trained, start, noise)
        return torch.cat(
            [(t - quiet[n]).flatten() for n, t in noised(job, trained, start, noise).items()]
        )

    first = drawn(job, trained)
    assert torch.equal(first, drawn(job, trained))
    for again in (
        drawn(job, other),
        drawn(replace(job, round=1), trained),
        drawn(job, trained, Noise(seeded_key(1))),
    ):
        assert abs(np.corrcoef(first.numpy(), again.numpy())[0, 1]) < 0.05


@pytest.mark.parametrize(("count", "words"), [(9, "the loss was"), (4, "a trained weight")])
def test_a_client_whose_training_fails_sends_no_change(count, words, job, store):
    """Whether it failed would tell of its data."""
    asked, examples = replace(job[0], noise=0.0), job[1][:count]
    training = replace(asked.training, learning_rate=1e38, max_grad_norm=1e38)
    wild = replace(asked, training=training)
    plain = train(replace(wild, clip=0.0), store.get, examples, torch.device("cpu"))
    assert plain.failure is not None and plain.failure.startswith(words)
    update = train(wild, store.get, examples, torch.device("cpu"))
    assert update.failure is None and update.losses is None
    usual = train(replace(asked, noise=0.0), store.get, examples, torch.device("cpu"))
    assert (update.steps, update.state_bytes) == (usual.steps, usual.state_bytes)
    assert not any(change.any() for change in changes(wild, update, store).values())


def test_a_client_whose_training_raises_sends_no_change(job, store):
    """A token beyond the embeddings is data too."""
    asked, examples = replace(job[0], noise=0.0), list(job[1])
    examples[0] = replace(examples[0], input_ids=examples[0].input_ids + 10_000)
    plain = train_or_fail(replace(asked, clip=0.0), store.get, examples, torch.device("cpu"))
    assert plain.failure == "training failed with IndexError"
    update = train_or_fail(asked, store.get, examples, torch.device("cpu"))
    usual = train_or_fail(asked, store.get, job[1], torch.device("cpu"))
    assert update.failure is None and update.losses is None
    assert (update.steps, update.upload_bytes) == (usual.steps, usual.upload_bytes)
    assert not any(change.any() for change in changes(asked, update, store).values())


def test_a_deadline_stays_a_failure(job, store):
    """It tells of the device; a change of nothing would only thin the mean."""
    late = Deadline(-math.inf, False)
    update = train(job[0], store.get, job[1], torch.device("cpu"), deadline=late)
    assert update.failure is not None and update.failure.startswith("the deadline passed")


def test_without_a_source_noise_is_of_the_operating_system(job, store):
    job, examples = job
    payloads = {train(job, store.get, examples, torch.device("cpu")).payload for _ in range(2)}
    assert len(payloads) == 2


def test_a_device_counts_for_itself_over_restarts(job, tmp_path):
    job, path = job[0], tmp_path / "privacy.json"
    limit = gaussian_epsilon([1.0] * 3, 1e-5) + 0.01
    for done in range(3):
        budget = Budget(path, limit, 1e-5)
        assert budget.fault(job) is None
        budget.note(job)
        assert budget.spent == pytest.approx(gaussian_epsilon([1.0] * (done + 1), 1e-5))
    assert Budget(path, limit, 1e-5).fault(job) == REFUSED == own_words(REFUSED)
    assert Budget(path, None, 1e-5).fault(job) is None


@pytest.mark.parametrize("weak", [{"noise": 0.0}, {"clip": 0.0}, {"private": False}])
def test_a_device_with_a_budget_refuses_a_job_without_noise(weak, job, tmp_path):
    assert Budget(tmp_path / "a", 1e3, 1e-5).fault(replace(job[0], **weak)) == REFUSED


def test_a_device_with_a_budget_measures_nothing(job, tmp_path):
    """What it measures of its examples would leave it without noise."""
    own = job[0]
    names = ("round", "client", "kind", "config", "pad_id", "shell", "tail", "segments")
    measuring = MeasureJob(**{name: getattr(own, name) for name in names})
    assert Budget(tmp_path / "a", 1e3, 1e-5).fault(measuring) == REFUSED
    assert Budget(tmp_path / "a", None, 1e-5).fault(measuring) is None


def test_a_damaged_count_is_said(tmp_path):
    (tmp_path / "privacy.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not know what it has told"):
        Budget(tmp_path / "privacy.json", 8.0, 1e-5)
