"""Fields of reports and updates: each wrong one is that client's refusal, in words."""

import math
from dataclasses import replace

import pytest
import torch

from leff.wire.checks import Expected, checked, cleaned, report_fault
from leff.wire.messages import Capacity, Device, Update
from leff.wire.tensors import pack

SHAPES = {"w": (2, 3), "b": (3,)}
EXPECTED = Expected(4, 7, (1, 2), (1, 2), examples=9, steps=3, shapes=SHAPES)
GOOD = Update(
    round=4,
    client=7,
    layers=(1, 2),
    examples=9,
    payload=pack({name: torch.ones(shape) for name, shape in SHAPES.items()}),
    losses=(2.0, 1.5),
    steps=3,
    train_seconds=0.5,
    layer_scores=(0.1, 0.0),
    state_bytes=100,
)
NAN, INF, HUGE = math.nan, math.inf, 10**400
NO_NUMBER = (None, "3", b"3", [3], {}, True, NAN, INF, -1, HUGE, object())


def test_a_good_update_is_taken_with_the_servers_own_bytes():
    taken = checked(replace(GOOD, upload_bytes=5, losses=None, layer_scores=()), EXPECTED)
    assert taken.failure is None and taken.upload_bytes == len(GOOD.payload)
    assert checked(GOOD, EXPECTED) == replace(GOOD, upload_bytes=len(GOOD.payload))


WRONG = {
    "payload": (None, "text", 5, [b"x"], bytearray(GOOD.payload)),
    "layers": (None, (1,), (2, 1), (0, 1), [1, 2], ("1", "2"), (1, 2, 3), "12", 3),
    "examples": (*NO_NUMBER, 0, 10, 10**9, 9.0),
    "steps": (*NO_NUMBER, 4, 3.0),
    "state_bytes": (*NO_NUMBER, 1.5),
    "download_bytes": NO_NUMBER,
    "upload_bytes": NO_NUMBER,
    "out_of_memory_bytes": (*NO_NUMBER, 5),  # 5 without a failure
    "train_seconds": NO_NUMBER,
    "layer_scores": (
        *(None, "ab", [0.1, 0.2], (0.1,), (0.1, 0.2, 0.3), (NAN, 0.1), (-0.1, 0.1)),
        *((1e300, 0.1), ("a", "b"), (HUGE, 1), (True, 0.1), (None, None)),
    ),
    "losses": (NAN, (NAN, 1.0), (1.0,), (1.0, 2.0, 3.0), "ab", [1.0, 2.0], (1.0, INF), (1, HUGE)),
    "failure": (5, b"gone", ["gone"], True),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_a_refusal_without_the_clients_numbers(name):
    for value in WRONG[name]:
        taken = checked(replace(GOOD, **{name: value}), EXPECTED)
        assert taken.failure and taken.failure.isprintable() and len(taken.failure) <= 200
        assert taken.payload == b"" and taken.upload_bytes in (0, len(GOOD.payload))
        kept = Update(4, 7, (1, 2), 9, failure=taken.failure, upload_bytes=taken.upload_bytes)
        assert taken == kept


def test_importance_that_was_not_asked_for_is_refused():
    """A client with adapters trains no layers of its own."""
    assert checked(GOOD, replace(EXPECTED, scored=())).failure
    assert checked(replace(GOOD, layer_scores=()), replace(EXPECTED, scored=())).failure is None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 3, dtype=dtype)
        for dtype in (torch.float64, torch.int8, torch.complex64, torch.float16)
    ]
    + [torch.ones(2, 3).to(torch.float8_e4m3fn), torch.full((2, 3), NAN), torch.full((2, 3), INF)],
    ids=lambda tensor: f"{tensor.dtype} {tensor.reshape(-1)[0].item()}",
)
def test_tensors_of_another_type_or_without_values_are_refused(tensor):
    taken = checked(replace(GOOD, payload=pack({"w": tensor, "b": torch.ones(3)})), EXPECTED)
    assert taken.failure is not None and taken.failure.startswith("w in the update is")
    assert taken.payload == b"" and taken.losses is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("gone\nfor good\t", "gone for good"),
        ("\x1b[31mred\x1b[0m \x00\u202e", "?[31mred?[0m ??"),
        ("\ud800", "?"),
        ("[red]<b>&", "[red]<b>&"),
        ("", "without a reason"),
        ("   ", "without a reason"),
        ("x" * 10**6, "x" * 200),
    ],
)
def test_a_clients_own_words_are_cut_and_cleaned(text, kept):
    assert checked(replace(GOOD, failure=text), EXPECTED).failure == kept


def test_a_failure_comes_without_tensors():
    taken = checked(replace(GOOD, failure="gone", out_of_memory_bytes=50), EXPECTED)
    assert taken == replace(
        GOOD,
        payload=b"",
        losses=None,
        failure="gone",
        out_of_memory_bytes=50,
        upload_bytes=len(GOOD.payload),
    )


DEVICE = Device("phone", 10**9, 1e9, 1e6, 1e5)
REPORT = Capacity(0, 3, 5, 10**9, 10**9, DEVICE)
WRONG_REPORTS = {
    "layers": (*NO_NUMBER, 0, 5, 2.0),
    "examples": (*NO_NUMBER, 0, 10**9, 5.0),
    "validation": (*NO_NUMBER, 10**9, 5.0),
    "memory_bytes": NO_NUMBER[1:],
    "step_flops": NO_NUMBER[1:],
}
WRONG_DEVICES = {
    "name": (5, None, "a\nb", "\x1b[31m", "x" * 201),
    "memory_bytes": NO_NUMBER,
    "flops_per_second": (*NO_NUMBER, 0),
    "down_bytes_per_second": (*NO_NUMBER, 0.0),
    "up_bytes_per_second": (*NO_NUMBER, 1e-300),
}


def test_a_good_report_is_used():
    for report in (REPORT, Capacity(0, 4, 1), Capacity(0, 1, 1, 0, 0)):
        assert report_fault(report, layers=4) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [("report", n) for n in WRONG_REPORTS] + [("device", n) for n in WRONG_DEVICES],
)
def test_a_wrong_report_is_a_reason(kind, name):
    for value in WRONG_REPORTS[name] if kind == "report" else WRONG_DEVICES[name]:
        report = replace(REPORT, **{name: value}) if kind == "report" else REPORT
        if kind == "device":
            report = replace(REPORT, device=replace(DEVICE, **{name: value}))
        reason = report_fault(report, layers=4)
        assert reason is not None and reason == cleaned(reason)


def test_a_device_must_be_one():
    assert report_fault(replace(REPORT, device="phone"), layers=4) is not None
