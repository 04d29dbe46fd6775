"""What a device checks of a job before it fetches anything: it does not trust its server blindly.

limits = JobLimits(most_bytes=2 * 10**9, most_upload_bytes=10**8, most_seconds=600, most_epochs=3)
job_fault(job, limits)      # None, or the reason why the device does not do it

A job came as JSON, so every field has its type (`wire.json.from_json`).  Here are its ranges, and
what the owner of the device allows.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from leff.errors import one_line, shown
from leff.models import KINDS, config_from_json, short_config
from leff.models.meta import empty_model
from leff.wire.headers import DTYPES, VALUE_BYTES, packed_bytes
from leff.wire.messages import Job, MeasureJob, Segment, Tuned

BITS = (32, 16, 8, 4)
MOST_LAYERS, MOST_DIMENSIONS = 10_000, 8
MOST_EPOCHS, MOST_BATCH = 1e6, 2**16
LEAST_BITS = 4  # a value of a quantised weight
MOST_SIZE, MOST_LABELS = 2**24, 2**16  # of anything in a model's configuration
Range = tuple[str, float, float, float]  # a number's name, its value, the least and the most


@dataclass(frozen=True)
class JobLimits:
    """What the owner of a device allows in one job."""

    most_bytes: int  # of the parts, whether they are in the cache or not
    most_upload_bytes: int
    most_seconds: float  # that the server may give the job
    most_epochs: float
    sums_only: bool = False  # whether what it tells may only leave it in a secure sum


def job_fault(job: Job | MeasureJob, limits: JobLimits, seconds: float = 0.0) -> str | None:
    """Return the reason why a device does not do a job that is given `seconds`, or None.

    Nothing is allocated by the job's word: the model is only laid out, without its values.
    """
    for faults in (_numbers(job), _model(job), _allowed(job, limits, seconds), _config(job)):
        for fault in faults:
            return one_line(f"the job {fault}")
    return None


def _numbers(job: Job | MeasureJob) -> Iterator[str]:
    """Yield each number of a job that is out of its range."""
    ranges: list[Range] = [
        ("round", job.round, 0, 10**9),
        ("client", job.client, 0, 2**64 - 1),
        ("pad_id", job.pad_id, 0, 2**31 - 1),
    ]
    if isinstance(job, MeasureJob):
        ranges += [
            ("batch_size", job.batch_size, 1, MOST_BATCH),
            ("probe", job.probe, 0, MOST_BATCH),
            ("seed", job.seed, 0, 2**63 - 1),
        ]
    else:
        ranges += _of_training(job)
    for name, value, low, high in ranges:
        if not low <= value <= high:
            yield f"has {name} = {shown(value)}, which must be from {low:g} to {high:g}"
    if isinstance(job, Job) and job.held and (not job.clip or job.upload != "full"):
        yield f"holds its update for a sum, with clip = {job.clip:g} and upload = {job.upload}"
    if isinstance(job, Job) and job.training.step.batch_size % job.training.step.accumulation:
        step = job.training.step
        yield f"does a batch of {step.batch_size} in {step.accumulation} parts, no divisor of it"


def _of_training(job: Job) -> list[Range]:
    training, step = job.training, job.training.step
    return [
        ("seed", job.seed, 0, 2**63 - 1),
        ("predicted_bytes", job.predicted_bytes, 0, 2**60),
        ("epochs", training.epochs, 0, MOST_EPOCHS),
        ("learning_rate", training.learning_rate, 0, 1),
        ("weight_decay", training.weight_decay, 0, 1),
        ("max_grad_norm", training.max_grad_norm, 0, math.inf),
        ("batch_size", step.batch_size, 1, MOST_BATCH),
        ("accumulation", step.accumulation, 1, max(1, step.batch_size)),
        ("proximal", step.proximal, 0, 1e6),
        ("clip", job.clip, 0, 1e9),
        ("noise", job.noise, 0, 1e6),
    ]


def _model(job: Job | MeasureJob) -> Iterator[str]:
    """Yield what is wrong with the form of a job's model."""
    if job.kind not in KINDS:
        yield f"is of kind {shown(job.kind)}; known are {', '.join(KINDS)}"
    for part in job.parts:
        if not re.fullmatch("[0-9a-f]{64}", part.digest) or part.size_bytes < 1:
            yield f"has a part with the digest {shown(part.digest)} and {part.size_bytes} bytes"
    trained = [segment for segment in job.segments if segment.trains]
    if isinstance(job, MeasureJob):
        if trained or not job.segments:
            yield "trains while it measures" if trained else "measures a model without layers"
    elif not job.segments or (job.tuned is None) == (not trained):
        yield "trains nothing" if job.tuned is None else "trains a block and other tensors too"
    for segment in job.segments:
        yield from _segment(segment)
    if isinstance(job, Job) and job.tuned is not None:
        yield from _tuned(job.tuned)


def _segment(segment: Segment) -> Iterator[str]:
    empty = segment.trains and not segment.sources  # others may be, where no layer stands in
    if empty or len(segment.sources) != len(segment.parts):
        yield f"has a segment of {len(segment.sources)} layers and {len(segment.parts)} parts"
    if not all(0 <= source < MOST_LAYERS for source in segment.sources):
        yield f"has layers {shown(segment.sources)}"
    if segment.bits not in BITS or (segment.trains and segment.bits != 32):
        yield f"has a segment in {segment.bits} bits{' that trains' if segment.trains else ''}"


def _tuned(tuned: Tuned) -> Iterator[str]:
    for name, shape in tuned.shapes.items():
        if len(shape) > MOST_DIMENSIONS or not all(size >= 0 for size in shape):
            yield f"trains {shown(name)} of the shape {shown(shape)}"
    if not tuned.shapes:
        yield "trains nothing"
    if not 0 <= tuned.seed < 2**63:
        yield f"has seed = {shown(tuned.seed)} for what trains"


def _allowed(job: Job | MeasureJob, limits: JobLimits, seconds: float) -> Iterator[str]:
    """Yield what a job asks for that the owner of the device does not allow."""
    parts = {part.digest: part.size_bytes for part in job.parts}
    asked = [
        ("is of {:,} bytes", sum(parts.values()), limits.most_bytes),
        ("is given {:,} seconds", seconds, limits.most_seconds),
    ]
    if isinstance(job, Job):
        asked += [
            ("asks for an update of {:,} bytes", sent_bytes(job), limits.most_upload_bytes),
            ("is of {:,} epochs", job.training.epochs, limits.most_epochs),
        ]
    if limits.sums_only and not (isinstance(job, Job) and job.held and job.private):
        yield "asks for what this device tells in sums only; see its limits"
    for words, value, most in asked:
        if not value <= most:
            yield f"{words.format(value)}, this device allows {most:,}; see its limits"


def sent_bytes(job: Job) -> int:
    """Return the bytes of a job's update: about, if it trains a block, since names are longer."""
    if job.tuned is not None:
        return packed_bytes(job.tuned.shapes, job.upload)
    parts = [part for segment in job.segments if segment.trains for part in segment.parts]
    whole = job.tail.size_bytes + sum(part.size_bytes for part in parts)
    return whole * VALUE_BYTES[DTYPES[job.upload]] // VALUE_BYTES["F32"]


def _config(job: Job | MeasureJob) -> Iterator[str]:
    """Yield what is wrong with the model's configuration: it must fit the parts."""
    sources = [source for segment in job.segments for source in segment.sources]
    try:
        for key, value in _wholes(json.loads(job.config)):
            if abs(value) > (MOST_LABELS if key == "num_labels" else MOST_SIZE):
                yield f"has a model with {shown(key)} = {shown(value)}"
                return
        model = empty_model(short_config(config_from_json(job.config), sources), job.kind)
    except (
        Exception
    ) as error:  # the library's own checks of a strange configuration are of any kind
        yield f"has a model that cannot be laid out: {error}"
        return
    values = sum(parameter.numel() for parameter in model.parameters())
    held = sum(part.size_bytes for part in job.parts) * 8 // LEAST_BITS
    if values > held:
        yield f"has a model of {values:,} values, its parts hold {held:,} at most"


def _wholes(values: Any) -> Iterator[tuple[str, int]]:
    """Yield the whole numbers in a configuration with their keys, but for angles."""
    if not isinstance(values, dict):
        raise ValueError("its configuration is no JSON object")
    for key, value in cast("dict[str, Any]", values).items():
        if isinstance(value, dict):
            yield from _wholes(value)
        elif type(value) is int and "theta" not in key:
            yield key, value
