"""A device's checks of a job: what the server's own jobs pass, and everything else is refused."""

import json
import random
from dataclasses import fields, is_dataclass, replace

import pytest
from small_rounds import CASES, TRAINING, recipe, whole
from tiny_models import tiny

from leff.client.job_checks import JobLimits, job_fault, sent_bytes
from leff.client.train import train
from leff.errors import LeffError
from leff.methods.jobs import JobWriter, measure_jobs
from leff.methods.method import RoundContext
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Job, MeasureJob, Part, Segment, Tuned

KIND = "generation"
LIMITS = JobLimits(10**7, 10**7, 60.0, 5.0)
METHODS = ("leff", "fedavg", "fedbitfit", "fedlora", "slora", "flora", "flexlora")


@pytest.fixture
def job(store):
    return whole(tiny("gpt2", KIND), KIND, store, range(1, 2))


@pytest.fixture
def tuned(store):
    made = recipe("fedlora", model := tiny("gpt2", KIND), KIND, store)
    return made.plan(model, RoundContext(0, 0, TRAINING), [Capacity(0, 4, 5)]).jobs[0]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_family_passes(case, store):
    job = whole(tiny(*case), case[1], store, range(1, 3))
    assert job_fault(from_json(Job, to_json(job)), LIMITS, 60.0) is None


@pytest.mark.parametrize("name", METHODS)
def test_jobs_of_every_method_pass(name, store):
    model = tiny("gpt2", KIND)
    made = recipe(name, model, KIND, store, context__steps=1, clients__layers=[1])
    for index in range(2):
        context = RoundContext(index, 0, TRAINING)
        for job in made.plan(model, context, [Capacity(0, 1, 5)]).jobs:
            assert job_fault(from_json(Job, to_json(job)), LIMITS) is None


def test_a_side_for_which_no_layer_stands_in_passes(job):
    assert job_fault(replace(job, segments=(Segment((), ()), *job.segments)), LIMITS) is None


@pytest.mark.parametrize("name", ["quantise", "drop"])
def test_jobs_in_few_bits_pass(name, store):
    model = tiny("gpt2", KIND)
    options = {"context__name": name, "context__bits": 4, "context__embedding_bits": 16}
    made = recipe("leff", model, KIND, store, clients__layers=[1], **options)
    jobs = made.plan(model, RoundContext(0, 0, TRAINING), [Capacity(0, 1, 5)]).jobs
    assert any(segment.bits == 4 for segment in jobs[0].segments)
    assert job_fault(jobs[0], LIMITS) is None


def test_bytes_of_an_update(job, tuned, store):
    import torch
    from small_rounds import random_examples

    for each in (job, tuned):
        for upload in ("full", "bf16", "int8"):
            now = replace(each, upload=upload)
            update = train(now, store.get, random_examples(KIND, 4), torch.device("cpu"))
            if each is tuned:
                assert sent_bytes(now) == update.upload_bytes
            else:  # the tiny model's headers are long beside its values
                assert 0.5 < sent_bytes(now) / update.upload_bytes < 1.1


def with_training(job, **changes):
    return replace(job, training=replace(job.training, **changes))


def with_step(job, **changes):
    return with_training(job, step=replace(job.training.step, **changes))


def with_config(job, **changes):
    return replace(job, config=json.dumps(json.loads(job.config) | changes))


NAN, INF = float("nan"), float("inf")
WRONG = {
    "round": lambda j: replace(j, round=-1),
    "client": lambda j: replace(j, client=2**64),
    "seed": lambda j: replace(j, seed=2**63),
    "pad_id": lambda j: replace(j, pad_id=-1),
    "predicted_bytes": lambda j: replace(j, predicted_bytes=-5),
    "epochs": lambda j: with_training(j, epochs=NAN),
    "epochs = -1": lambda j: with_training(j, epochs=-1.0),
    "learning_rate = inf": lambda j: with_training(j, learning_rate=INF),
    "learning_rate = nan": lambda j: with_training(j, learning_rate=NAN),
    "learning_rate = 1.5": lambda j: with_training(j, learning_rate=1.5),
    "weight_decay": lambda j: with_training(j, weight_decay=-0.1),
    "max_grad_norm": lambda j: with_training(j, max_grad_norm=NAN),
    "batch_size": lambda j: with_step(j, batch_size=0),
    "accumulation": lambda j: with_step(j, accumulation=5),
    "no divisor": lambda j: with_step(j, batch_size=4, accumulation=3),
    "proximal": lambda j: with_step(j, proximal=INF),
    "is of kind 'song'": lambda j: replace(j, kind="song"),
    "with the digest '../../x'": lambda j: replace(j, tail=Part("../../x", 5)),
    "and 0 bytes": lambda j: replace(j, shell=Part("a" * 64, 0)),
    "trains nothing": lambda j: replace(j, segments=j.segments[:1]),
    "a block and other": lambda j: replace(j, tuned=Tuned({"a": (1,)})),
    "0 layers": lambda j: replace(j, segments=(*j.segments, Segment((), (), trains=True))),
    "2 layers and 1 parts": lambda j: replace(
        j, segments=(*j.segments, Segment((1, 2), (j.tail,)))
    ),
    "has layers (-1,)": lambda j: replace(j, segments=(*j.segments, Segment((-1,), (j.tail,)))),
    "in 3 bits": lambda j: replace(j, segments=(*j.segments, Segment((1,), (j.tail,), bits=3))),
    "8 bits that trains": lambda j: replace(
        j, segments=(*j.segments, Segment((1,), (j.tail,), True, bits=8))
    ),
    "its parts hold": lambda j: with_config(j, vocab_size=10**6),
    "'vocab_size' = 1000000000000": lambda j: with_config(j, vocab_size=10**12),
    "'num_labels' = 1000000": lambda j: with_config(j, num_labels=10**6),
    "laid out": lambda j: replace(j, config="{}"),
    "no JSON object": lambda j: replace(j, config="[]"),
    "this is no model": lambda j: with_config(j, model_type="nothing"),
    "a short gpt2 needs": lambda j: replace(j, segments=(*j.segments, Segment((77,), (j.tail,)))),
    "laid out: ": lambda j: with_config(j, n_embd=33),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_job_out_of_range_is_refused(words, job):
    assert job_fault(job, LIMITS) is None
    fault = job_fault(WRONG[words](job), LIMITS)
    assert fault is not None and fault.startswith("the job ") and words in fault
    assert fault.isprintable() and len(fault) <= 2000


@pytest.fixture
def measuring(store):
    writer = JobWriter(store, KIND, 0)
    (job,) = measure_jobs(writer, tiny("gpt2", KIND), 0, [3], 8, 16)
    return job


def test_a_measuring_job_passes_and_is_refused_out_of_range(measuring):
    assert job_fault(from_json(MeasureJob, to_json(measuring)), LIMITS, 60.0) is None
    trains = Segment((1,), (measuring.tail,), trains=True)
    for words, wrong in {
        "has round = -1": replace(measuring, round=-1),
        "has batch_size = 0": replace(measuring, batch_size=0),
        "has probe = -1": replace(measuring, probe=-1),
        "has seed = -1": replace(measuring, seed=-1),
        "is of kind 'song'": replace(measuring, kind="song"),
        "with the digest '../x'": replace(measuring, shell=Part("../x", 5)),
        "trains while it measures": replace(measuring, segments=(*measuring.segments, trains)),
        "a model without layers": replace(measuring, segments=()),
        "'vocab_size' = 1000000000000": with_config(measuring, vocab_size=10**12),
        "laid out": replace(measuring, config="{}"),
    }.items():
        fault = job_fault(wrong, LIMITS)
        assert fault is not None and words in fault
    assert "is given 61 seconds" in (job_fault(measuring, LIMITS, 61) or "")
    assert "is of" in (job_fault(measuring, replace(LIMITS, most_bytes=10)) or "")


WRONG_TUNED = {
    "of the shape (-1, 3)": {"shapes": {"a": (-1, 3)}},
    "of the shape (1, 1,": {"shapes": {"a": (1,) * 9}},
    "trains nothing": {"shapes": {}},
    "has seed = -1": {"seed": -1},
    "asks for an update of 4,000,000,000,0": {"shapes": {"a": (10**6, 10**6)}},
}


@pytest.mark.parametrize("words", WRONG_TUNED)
def test_tuned_tensors_out_of_range_are_refused(words, tuned):
    assert job_fault(tuned, LIMITS) is None
    fault = job_fault(replace(tuned, tuned=replace(tuned.tuned, **WRONG_TUNED[words])), LIMITS)
    assert words in (fault or "")


def test_the_owners_limits_hold(job):
    parts = sum({part.digest: part.size_bytes for part in job.parts}.values())
    exact = JobLimits(parts, sent_bytes(job), 30.0, job.training.epochs)
    assert job_fault(job, exact, 30.0) is None
    for change, words in (
        ({"most_bytes": parts - 1}, f"is of {parts:,} bytes, this device allows {parts - 1:,}"),
        ({"most_upload_bytes": 10}, "asks for an update of"),
        ({"most_seconds": 29.0}, "is given 30.0 seconds, this device allows 29.0"),
        ({"most_epochs": 0.5}, "epochs, this device allows 0.5"),
    ):
        assert words in (job_fault(job, replace(exact, **change), 30.0) or "")


def test_a_device_that_tells_in_sums_only_refuses_all_else(job, measuring):
    free = JobLimits(10**12, 10**12, 10**12, 10**12, sums_only=True)
    held = replace(job, held=True, clip=1.0, private=True)
    assert job_fault(held, free) is None
    for other in (job, replace(job, clip=1.0), replace(held, private=False), measuring):
        assert job_fault(other, replace(free, sums_only=False)) is None
        assert "tells in sums only" in (job_fault(other, free) or "")
    for wrong in ({"clip": 0.0}, {"upload": "int8"}):
        assert "holds its update for a sum, with" in (job_fault(replace(held, **wrong), free) or "")


VALUES = (0, -1, 1, 3, 10**4, 10**12, 2**70, 1.5, -0.5, 1e300, NAN, "", "x", "a" * 64, (), None)


def strange(rng, value):
    """The value with one field somewhere inside replaced by one of the same type."""
    names = [field.name for field in fields(value)]
    name = rng.choice(names)
    own = getattr(value, name)
    if is_dataclass(own) and rng.random() < 0.8:
        return replace(value, **{name: strange(rng, own)})
    if isinstance(own, tuple) and own and is_dataclass(own[0]):
        place = rng.randrange(len(own))
        return replace(value, **{name: (*own[:place], strange(rng, own[place]), *own[place + 1 :])})
    same = [each for each in VALUES if type(each) is type(own)]
    return replace(value, **{name: rng.choice(same or [own])})


@pytest.mark.soak(40, 3000)
def test_strange_jobs_are_refused_or_pass_without_an_error(job, tuned, measuring, count):
    rng, outcomes = random.Random(3), {True: 0, False: 0}
    for _ in range(count):
        try:
            chosen = rng.choice((job, tuned, measuring))
            read = from_json(type(chosen), to_json(strange(rng, chosen)))
        except LeffError:  # a choice that there is not, or no number
            continue
        fault = job_fault(read, LIMITS)
        outcomes[fault is None] += 1
        assert fault is None or fault.isprintable()
    assert all(outcomes.values())
