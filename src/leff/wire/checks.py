"""The checks of what clients send: the one door for reports and updates, under every engine.

report_fault(report, layers=12)         # None, or the reason why the client cannot take part
checked(update, expected)               # the update with the server's own numbers, or refused
checked_measure(measure, expected)      # the same for a measurement

A client's word is never trusted.  Each field has a type and a range.  The header of the tensors is
checked before any of them is made (`headers`).  A payload in a file is never whole in memory.  What
the server knows, it takes from itself: the layers, the number of examples, and the bytes that came.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError

from leff.errors import shown
from leff.wire.headers import SCALE, Shapes, header_fault, size_of
from leff.wire.messages import OFFSETS, Capacity, Device, Measure, Update, Upload
from leff.wire.tensors import Payload, slices

MOST_TEXT = 200  # characters of a client's own words
MOST_EXAMPLES = 10**8  # D_i; no device has more texts
MOST = 2**60  # of bytes and operations; larger numbers are no measurements
MOST_SECONDS = 1e9
MOST_LOSS = 1e30  # nats, or a squared error
MOST_ANSWER = 1e12  # a regression's mean score, or mean label
MOST_SCORE = 1e12  # I_l is around 1e-4; larger ones would decide every draw of a block
RATES = (1e-6, 1e24)  # per second, of a device


@dataclass(frozen=True)
class Expected:
    """What the server knows of a client's update before it comes.

    `scored` are the layers whose importance the client may send.  `shapes` has the name and the
    shape of each tensor that it must send, in the form `upload`; `headers.most_bytes` bounds them.
    With `private` it may send no losses, and with `held` no tensors.
    """

    round: int
    client: int
    layers: tuple[int, ...]
    scored: tuple[int, ...]
    examples: int  # D_i, as the client reported before it saw the job
    steps: int  # at most
    shapes: Shapes
    upload: Upload = "full"
    private: bool = False
    held: bool = False


def report_fault(report: Capacity, layers: int) -> str | None:
    """Return the reason why a report for a model of `layers` layers cannot be used, or None.

    `failed_bytes` and `labels` are not looked at, since the server sets them.
    """
    limits: list[tuple[str, object, int, int]] = [
        ("layers", report.layers, 1, layers),
        ("examples", report.examples, 1, MOST_EXAMPLES),
        ("validation", report.validation, 0, MOST_EXAMPLES),
    ]
    for name in ("memory_bytes", "step_flops"):
        value = getattr(report, name)
        if value is not None:
            limits.append((name, value, 0, MOST))
    for name, value, low, high in limits:
        if not _is_whole(value, low, high):
            return f"it reports {_wrong(name, value, low, high)}"
    return None if report.device is None else _device_fault(report.device)


def _device_fault(device: Device) -> str | None:
    if type(device) is not Device:
        return "it reports a device that is none"
    name = device.name
    if type(name) is not str or cleaned(name) != name:
        return f"it reports a device with the name {shown(name)}"
    if not _is_whole(device.memory_bytes, 0, MOST):
        return f"it reports {_wrong('memory_bytes', device.memory_bytes, 0, MOST)}"
    for name in ("flops_per_second", "down_bytes_per_second", "up_bytes_per_second"):
        rate = getattr(device, name)
        if not _is_number(rate, *RATES):
            return f"it reports {name} = {shown(rate)}, which is no speed"
    return None


def checked(update: Update, expected: Expected) -> Update:
    """Return an update of this client and round as the server takes it.

    It has the server's layers, number of examples and uploaded bytes.  If it cannot be merged, it
    is `refused`, and if a field was wrong, it has no number of the client's.
    """
    upload_bytes = _sent_bytes(update.payload)
    fault = _field_fault(update, expected)
    if fault is not None:
        own = Update(expected.round, expected.client, expected.layers, expected.examples)
        return replace(own, upload_bytes=upload_bytes, failure=cleaned(fault))
    update = replace(
        update, layers=expected.layers, examples=expected.examples, upload_bytes=upload_bytes
    )
    fault = update.failure
    if expected.held:
        fault = fault or ("it sent tensors, which it should hold" if upload_bytes else None)
    elif fault is None:
        fault = payload_fault(update.payload, expected.shapes, expected.upload)
    return update if fault is None else refused(update, fault)


def refused(update: Update, fault: str) -> Update:
    """Return an update as a failure without tensors; the reason is cut and cleaned (`cleaned`)."""
    return replace(update, payload=b"", losses=None, failure=cleaned(fault) or "without a reason")


def _sent_bytes(payload: object) -> int:
    """Return the bytes that came; 0 if there are none, or what came is no payload."""
    try:
        return size_of(payload) if isinstance(payload, bytes | Path) else 0
    except (OSError, ValueError):
        return 0


def _field_fault(update: Update, expected: Expected) -> str | None:
    """Return what is wrong with an update's fields, beside its tensors, or None."""
    if not isinstance(update.payload, bytes | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        return f"payload must be bytes or a file, got {shown(update.payload)}"
    if type(update.layers) is not tuple or update.layers != expected.layers:
        return "the update is not of the layers that the job asked for"
    least, same = (0, True) if update.failure else (1, update.examples == expected.examples)
    if not _is_whole(update.examples, least, MOST_EXAMPLES) or not same:
        own = f"{expected.examples:,} were reported"
        return f"the update says that it is of {shown(update.examples)} examples, {own}"
    wholes = {"steps": expected.steps, "state_bytes": MOST, "out_of_memory_bytes": MOST}
    wholes |= {"download_bytes": MOST, "upload_bytes": MOST}
    for name, high in wholes.items():
        if not _is_whole(getattr(update, name), 0, high):
            return _wrong(name, getattr(update, name), 0, high)
    if not _is_number(update.train_seconds, 0, MOST_SECONDS):
        return f"train_seconds = {shown(update.train_seconds)} is no time"
    if not _are_numbers(update.layer_scores, (0, len(expected.scored)), 0, MOST_SCORE):
        return "layer_scores must have one number, from 0 up, for each layer, or none"
    if update.losses is not None and not _are_numbers(update.losses, (2,), -MOST_LOSS, MOST_LOSS):
        return "losses must be two finite numbers"
    if update.losses is not None and expected.private:
        return "it sent losses, which a private run does not ask for"
    if update.failure is not None and type(update.failure) is not str:
        return f"failure must be a text, got {shown(update.failure)}"
    if update.out_of_memory_bytes and update.failure is None:
        return "the client's memory ran out, and yet it sent an update"
    return None


def payload_fault(payload: Payload, shapes: Shapes, upload: Upload = "full") -> str | None:
    """Return the reason why a payload cannot be merged, or None.

    It must hold exactly the tensors of an upload of these shapes.  All values must be finite, and
    no scale negative.
    """
    try:
        fault = header_fault(payload, shapes, upload)
        return fault if fault is not None else _values_fault(payload)
    except (OSError, ValueError, SafetensorError) as error:
        return f"the update cannot be read: {error}"


def _values_fault(payload: Payload) -> str | None:
    for name, values in slices(payload):
        if not torch.isfinite(values).all():
            return f"{name} in the update is not finite"
        if name.endswith(SCALE) and (values < 0).any():
            return f"{name} in the update is negative"
    return None


@dataclass(frozen=True)
class ExpectedMeasure:
    """What the server knows of a client's measurement before it comes."""

    round: int
    client: int
    kind: str
    examples: int  # that the client reported as held out; for a probe D_i, if it holds none out
    classes: int  # K of a classifier, else 0
    labels: int  # of all examples together, at most
    probe: int = 0  # as in the job


def checked_measure(measure: Measure, expected: ExpectedMeasure) -> Measure:
    """Return a measurement of this client and round as the server takes it.

    If a field is wrong, it has a `failure` and no number of the client's.
    """
    own = Measure(expected.round, expected.client, expected.examples)
    fault = _measure_fault(measure, expected)
    if fault is None and measure.failure is not None:
        fault = measure.failure or "without a reason"
    return measure if fault is None else replace(own, failure=cleaned(fault))


def _measure_fault(measure: Measure, expected: ExpectedMeasure) -> str | None:
    """Return what is wrong with a measurement's fields, or None."""
    if measure.failure is not None:
        good = type(measure.failure) is str
        return None if good else f"failure must be a text, got {shown(measure.failure)}"
    if not _is_whole(measure.examples, 1, MOST_EXAMPLES) or measure.examples != expected.examples:
        own = f"{expected.examples:,} were reported"
        kind = "" if expected.probe else "validation "
        return f"it measured on {shown(measure.examples)} {kind}examples, {own}"
    if not _is_number(measure.seconds, 0, MOST_SECONDS):
        return f"seconds = {shown(measure.seconds)} is no time"
    if expected.probe:
        return _probe_fault(measure, expected)
    if measure.answers != () or measure.labels != ():
        return "answers are of a probe only"
    counted = expected.kind in ("classification", "multilabel", "regression")
    least, most = (expected.examples,) * 2 if counted else (1, expected.labels)
    if not _is_whole(measure.weight, least, most):
        return _wrong("weight", measure.weight, least, most)
    if measure.loss is None:  # the model is not finite
        empty = measure.confusion == () == measure.moments
        return None if empty else "a measurement without a loss has other sums"
    if not _is_number(measure.loss, 0, MOST_LOSS):
        return f"loss = {shown(measure.loss)} is no sum of losses"
    return _sums_fault(measure, expected)


def _probe_fault(measure: Measure, expected: ExpectedMeasure) -> str | None:
    """Return what is wrong with the answers of a probe, or None."""
    size, rows = max(1, expected.classes), min(expected.probe, expected.examples)
    if not _is_whole(measure.weight, rows, rows):
        return _wrong("weight", measure.weight, rows, rows)
    if measure.loss is not None or measure.confusion != () or measure.moments != ():
        return "a probe has answers only"
    if measure.answers == ():
        return None if measure.labels == () else "labels without answers"
    count = len(OFFSETS) if expected.classes else 1
    low, high = (0.0, 1.0) if expected.classes else (-MOST_ANSWER, MOST_ANSWER)
    if type(measure.answers) is not tuple or len(measure.answers) != size:
        return f"answers must have {size} rows"
    if not all(_are_numbers(row, (count,), low, high) for row in measure.answers):
        return f"answers must have {count} numbers in each row"
    if not expected.classes:
        good = _are_numbers(measure.labels, (1,), -MOST_ANSWER, MOST_ANSWER)
        return None if good else "labels must be one number, the mean label"
    good = _are_numbers(measure.labels, (size,), 0, 1) and abs(sum(measure.labels) - 1) < 1e-3
    return None if good else f"labels must be the shares of {size} labels"


def _sums_fault(measure: Measure, expected: ExpectedMeasure) -> str | None:
    """Return what is wrong with a measurement's counts or moments, or None."""
    rows, classes = measure.confusion, expected.classes
    several = expected.kind == "multilabel"
    width = 4 if several else classes
    if type(rows) is not tuple or len(rows) != classes:
        return f"confusion must have {classes} rows"
    if any(not _are_wholes(row, width, expected.examples) for row in rows):
        return f"confusion must have {width} counts in each row"
    for counted in rows if several else (sum(rows, ()),):
        if classes and sum(counted) != expected.examples:
            return f"confusion counts {sum(counted):,} examples, not {expected.examples:,}"
    moments = measure.moments
    if expected.kind != "regression":
        return None if moments == () else "moments are of a regression only"
    if not _are_numbers(moments, (6,), -MOST_LOSS, MOST_LOSS):
        return "moments must be six finite numbers"
    n, p, y, pp, yy, py = moments
    if n != expected.examples:
        return f"moments count {shown(n)} examples, not {expected.examples:,}"
    slack = 1 + 1e-9  # for rounding
    if p * p > n * pp * slack or y * y > n * yy * slack or py * py > pp * yy * slack:
        return "moments are of no numbers: a sum of squares is too small"
    return None


def cleaned(text: str) -> str:
    """Return a text as one line of at most `MOST_TEXT` printable characters."""
    line = " ".join(text[: 4 * MOST_TEXT].split())
    return "".join(c if c.isprintable() else "?" for c in line)[:MOST_TEXT]


def _wrong(name: str, value: object, low: int, high: int) -> str:
    return f"{name} = {shown(value)}, which must be a whole number from {low} to {high}"


def _is_whole(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: object, low: float, high: float) -> bool:
    """Return whether a value is a number in this range; NaN is in none."""
    return isinstance(value, int | float) and type(value) is not bool and low <= value <= high


def _are_numbers(values: object, counts: Sequence[int], low: float, high: float) -> bool:
    if not isinstance(values, tuple):
        return False
    own = cast("tuple[object, ...]", values)
    return len(own) in counts and all(_is_number(value, low, high) for value in own)


def _are_wholes(values: object, count: int, high: int) -> bool:
    if type(values) is not tuple:
        return False
    own = cast("tuple[object, ...]", values)
    return len(own) == count and all(_is_whole(value, 0, high) for value in own)
