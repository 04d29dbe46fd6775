"""Forms of upload: closed forms, what rounding loses, and that it is not lost for good."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from leff.wire.checks import payload_fault
from leff.wire.codec import LARGEST, difference, encoded, rebuild
from leff.wire.headers import header, header_fault, most_bytes, packed_bytes
from leff.wire.tensors import pack, slices, unpack

SHAPES = {"w": (5, 7), "b": (7,), "cube": (2, 3, 4), "one": (), "none": (0, 4), "row": (1, 9)}
ROUNDED = ("bf16", "int8")
UPLOADS = ("full", *ROUNDED)
FLOATS = st.floats(-1e6, 1e6, width=32)


def drawn(seed=0, scale=1.0, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {n: scale * torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def payload_of(changes, upload):
    return pack(changes if upload == "full" else encoded(changes, upload)[0])


@given(arrays.arrays(np.float32, (3, 4), elements=FLOATS))
def test_bf16_is_the_nearest_and_the_rest_is_kept_exactly(values):
    change = torch.tensor(values)
    tensors, lost = encoded({"w": change}, "bf16")
    assert tensors["w"].dtype == torch.bfloat16
    assert torch.equal(tensors["w"], change.to(torch.bfloat16))
    assert torch.equal(tensors["w"].float() + lost["w"], change)


@given(arrays.arrays(np.float32, (3, 4), elements=FLOATS))
def test_int8_by_numpy(values):
    """Scale = the row's largest / 127, codes to the nearest, at most half a scale is lost."""
    tensors, lost = encoded({"w": torch.tensor(values)}, "int8")
    codes, scales = tensors["w"].numpy(), tensors["w:scale"].numpy()
    assert codes.dtype == np.int8 and scales.dtype == np.float32 and np.abs(codes).max() <= LARGEST
    np.testing.assert_array_equal(scales, np.abs(values).max(1) / np.float32(127))
    sent = codes * scales[:, None]
    np.testing.assert_array_equal(lost["w"].numpy(), values - sent)
    assert (np.abs(values - sent) <= 0.5001 * scales[:, None] + 1e-37).all()
    for row, scale in zip(codes, scales, strict=True):
        assert np.abs(row).max() == (LARGEST if scale > 1e-35 else np.abs(row).max())


def test_each_row_has_its_own_scale_and_a_vector_one():
    tensors, _ = encoded(drawn(), "int8")
    shapes = {n: tuple(t.shape) for n, t in tensors.items() if n.endswith(":scale")}
    assert shapes == {
        "w:scale": (5,),
        "b:scale": (),
        "cube:scale": (2,),
        "one:scale": (),
        "none:scale": (0,),
        "row:scale": (1,),
    }
    rows = torch.tensor([[1e6, -1e6], [0.0, 0.0], [1e-6, -3e-6]])
    tensors, lost = encoded({"w": rows}, "int8")
    assert tensors["w"].tolist() == [[127, -127], [0, 0], [42, -127]]
    assert lost["w"][1].tolist() == [0, 0] and lost["w"][2].abs().max() < 1e-8


@pytest.mark.parametrize("values", [[0.0, -0.0], [1e-45, 0.0], [3e38, -3e38]])
def test_odd_values_are_finite_on_both_sides(values):
    for upload in ROUNDED:
        tensors, lost = encoded({"w": torch.tensor(values)}, upload)
        back = difference("w", upload, tensors.__getitem__)
        assert back.isfinite().all() and lost["w"].isfinite().all()


@pytest.mark.parametrize("upload", ROUNDED)
def test_feedback_sends_everything_in_the_end(upload):
    """A change too small beside its row's largest is never sent without feedback."""
    change = torch.tensor([[1.0, 1e-3, -3e-4]])
    residual, total, without, rounds = torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), 64
    for _ in range(rounds):
        tensors, lost = encoded({"w": change + residual}, upload)
        total, residual = total + difference("w", upload, tensors.__getitem__), lost["w"]
        plain = encoded({"w": change}, upload)[0]
        without += difference("w", upload, plain.__getitem__)
    assert torch.allclose(total + residual, rounds * change, rtol=1e-5)
    assert (total - rounds * change).abs().max() <= 0.005  # half a step, whatever the rounds
    if upload == "int8":
        assert without[0, 1] == 0 and without[0, 2] == 0


@pytest.mark.parametrize("upload", UPLOADS)
def test_bytes_are_foretold(upload):
    payload = payload_of(drawn(), upload)
    assert len(payload) == packed_bytes(SHAPES, upload) <= most_bytes(SHAPES, upload)
    assert payload.startswith(header(SHAPES, upload))
    assert payload_fault(payload, SHAPES, upload) is None


def test_bytes_of_a_large_layer():
    shapes = {"w": (3072, 768)}
    full, half, eighth = (packed_bytes(shapes, upload) for upload in UPLOADS)
    assert half / full == pytest.approx(0.5, abs=1e-4)
    assert eighth / full == pytest.approx(0.25 + 1 / 768, abs=1e-4)


@pytest.mark.parametrize("asked", UPLOADS)
@pytest.mark.parametrize("came", UPLOADS)
def test_another_form_than_asked_for_is_refused(asked, came):
    fault = header_fault(payload_of(drawn(), came), SHAPES, asked)
    assert (fault is None) == (asked == came)


BAD_SCALES = {"negative": -1.0, "not finite": float("nan"), "finite": float("inf")}


@pytest.mark.parametrize("words", BAD_SCALES)
def test_a_scale_must_be_one(words):
    tensors, _ = encoded(drawn(), "int8")
    tensors["w:scale"][3] = BAD_SCALES[words]
    fault = payload_fault(pack(tensors), SHAPES, "int8")
    assert fault is not None and fault.startswith("w:scale in the update is ") and words in fault


@pytest.mark.parametrize("upload", ROUNDED)
def test_the_server_adds_the_difference_to_its_own(upload, tmp_path):
    start, changes, paths = drawn(1), drawn(2, 0.01), (tmp_path / "sent", tmp_path / "file")
    tensors, lost = encoded(changes, upload)
    paths[0].write_bytes(pack(tensors))
    for payload, path in ((pack(tensors), tmp_path / "bytes"), paths):
        assert rebuild(payload, SHAPES, upload, start, path) is None
        assert path.read_bytes() == pack(unpack(path))
        for name, tensor in unpack(path).items():
            assert torch.equal(tensor, start[name] + (changes[name] - lost[name]))
    assert (tmp_path / "bytes").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_sum_that_is_not_finite_is_refused(tmp_path):
    shapes, start = {"w": (2, 2)}, {"w": torch.full((2, 2), 3e38)}
    huge = {"w": torch.tensor([[1, 127], [0, 0]], dtype=torch.int8)}
    for scale in (1e36, 3e38):
        payload = pack({**huge, "w:scale": torch.tensor([scale, 0.0])})
        assert payload_fault(payload, shapes, "int8") is None
        fault = rebuild(payload, shapes, "int8", start, tmp_path / "x")
        assert fault == "w in the update is not finite"


@pytest.mark.parametrize("upload", UPLOADS)
def test_a_file_is_checked_a_few_rows_at_a_time(upload, tmp_path, monkeypatch):
    monkeypatch.setattr("leff.wire.tensors.READ_BYTES", 400)
    shapes, path = {"w": (301, 20), "b": (50,)}, tmp_path / "sent"
    good = payload_of(drawn(shapes=shapes), upload)
    path.write_bytes(good)
    pieces = list(slices(path))
    assert max(values.nbytes for _, values in pieces) <= 400 and len(pieces) > 15
    for name, tensor in unpack(good).items():
        rows = [values for own, values in pieces if own == name]
        assert torch.equal(torch.cat(rows) if tensor.dim() else rows[0], tensor)
    assert payload_fault(path, shapes, upload) is None
    path.write_bytes(good[:-1])
    assert "bytes of values" in (payload_fault(path, shapes, upload) or "")
    bad = unpack(good)
    bad["w:scale" if upload == "int8" else "w"][300] = float("nan")
    path.write_bytes(pack(bad))
    assert "is not finite" in (payload_fault(path, shapes, upload) or "")
    path.unlink()
    assert "cannot be read" in (payload_fault(path, shapes, upload) or "")
