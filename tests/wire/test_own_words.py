"""Which reasons of devices are kept."""

import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from small_rounds import TRAINING, random_examples, whole
from tiny_models import tiny

from leff.client.deadline import Deadline
from leff.client.job_checks import JobLimits, job_fault
from leff.client.train import train, train_or_fail
from leff.wire.messages import MeasureJob
from leff.wire.own_words import own_words

UNKNOWN = "it gives a reason that is not kept"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    return tiny("gpt2", "generation")


@pytest.fixture
def job(model, store):
    return whole(model, "generation", store, range(1, 2))


@pytest.mark.parametrize(
    "text",
    [
        "its data has changed since it reported",
        "its data does not fit the task; its own log says why",
        "this device has not joined this federation",
        "the server has leff 0.1.0, this device 0.2.0rc1",
        "leff 0.1.0 cannot read this ask",
        "it failed with OSError",
        "this SuperNode has no leff-home in its node-config",
        "this SuperNode's device cannot work; its own log says why",
    ],
)
def test_what_a_device_says_itself_is_kept(text):
    assert own_words(text) == text


def test_every_refusal_in_the_device_s_code_is_known():
    import re

    source = Path("src/leff/device/work.py").read_text()
    client = Path("src/leff/engines/flower/client_app.py").read_text()
    said = re.findall(r'_?refusal\((?:ask, )?f?"([^"]+)"', source + client)
    said += re.findall(r'refusal=f?"([^"]+)"', source)
    reasons = source[source.index("def _reason") : source.index("def _digest")]
    said += re.findall(r'(?:return|else) f?"([^"]+)"', reasons)
    assert len(said) >= 11
    for text in said:
        filled = re.sub(r"\{type\(error\).__name__\}", "ValueError", text)
        filled = re.sub(r"\{(HOME)\}", "leff-home", filled)
        filled = re.sub(r"\{[^}]*\}", "0.1.0", filled)
        assert own_words(filled) == filled, text


def test_failures_of_training_are_known(job, store):
    examples = random_examples("generation", 6)
    late = train(job, store.get, examples, CPU, None, Deadline(-math.inf, False))
    none = train(job, store.get, [], CPU)
    wild = replace(job, training=replace(TRAINING, learning_rate=1e38, max_grad_norm=1e38))
    lost = train(wild, store.get, examples * 4, CPU)

    def broken(part):
        raise ValueError("Anna is ill")

    def full(part):
        raise MemoryError

    failed = [late, none, lost, train_or_fail(job, broken, examples, CPU)]
    failed.append(train_or_fail(job, full, examples, CPU))
    said = [update.failure for update in failed]
    assert None not in said and len(set(said)) == 5
    assert [own_words(text) for text in said] == said


@pytest.mark.parametrize(
    "limit",
    [
        {"most_bytes": 0},
        {"most_upload_bytes": 0},
        {"most_seconds": 0},
        {"most_epochs": 0},
        {"sums_only": True},
    ],
)
def test_what_a_device_s_owner_does_not_allow_is_known(job, limit):
    free = JobLimits(10**12, 10**12, 10**12, 10**12)
    assert job_fault(job, free, 3600.5) is None
    fault = job_fault(job, replace(free, **limit), 3600.5)
    assert fault is not None and own_words(fault) == fault


def test_failures_of_measuring_are_known(job, store, monkeypatch):
    from leff.client import measure as client

    asked = MeasureJob(0, 0, job.kind, job.config, job.pad_id, job.shell, job.tail, job.segments)
    measured, examples = client.measure_or_fail, random_examples("generation", 3)
    failed = [
        measured(asked, store.get, [], CPU),
        measured(asked, store.get, examples, CPU, Deadline(-math.inf)),
    ]
    for error in (ValueError("Anna is ill"), MemoryError()):
        monkeypatch.setattr(client, "client_model", Mock(side_effect=error))
        failed.append(measured(asked, store.get, examples, CPU))
    said = [found.failure for found in failed]
    assert None not in said and len(set(said)) == 4
    assert [own_words(text) for text in said] == said


@pytest.mark.parametrize(
    "text",
    [
        "Anna is ill",
        "training failed with ValueError: Anna is ill",
        "training failed with ValueError\nAnna is ill",
        "it failed with Anna is ill",
        "the loss was nan at step 3 for Anna",
        "out of memory: 3 bytes held and asked for, by Anna",
        "the server has leff 0.1.0, this device 0.2.0 of Anna",
        "a trained weight is not finite ",
        "it failed with " + "A" * 200,
        "\x1b[31mits disk is full",
    ],
)
def test_what_may_be_private_is_not_kept(text):
    assert own_words(text) == UNKNOWN


def test_no_reason_stays_none():
    assert own_words("") == ""
