"""What crosses the network: frozen, and tensors as safetensors bytes to the bit."""

import dataclasses
import hashlib
import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leff.wire import messages as types
from leff.wire.messages import Job, LocalTraining, Part, Segment, Update
from leff.wire.tensors import pack, part_of, unpack

TENSORS = {
    "b": torch.tensor([[1.5, -0.0], [float("inf"), float("nan")]]),
    "a": torch.arange(6, dtype=torch.int8).reshape(2, 3),
    "view": torch.arange(12.0).reshape(3, 4).t(),
    "empty": torch.zeros(0, 3),
    "half": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0),
}


def test_round_trip_to_the_bit():
    back = unpack(pack(TENSORS))
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        raw = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), raw)


@given(st.permutations(sorted(TENSORS)))
def test_bytes_do_not_depend_on_the_order_of_insertion(names):
    assert pack({name: TENSORS[name] for name in names}) == pack(TENSORS)


def test_bytes_are_safetensors_and_no_pickle():
    payload = pack({"w": torch.nn.Parameter(torch.ones(2))})
    (length,) = struct.unpack("<Q", payload[:8])
    assert json.loads(payload[8 : 8 + length])["w"]["dtype"] == "F32"
    assert not payload.startswith(b"\x80") and b"torch" not in payload


def test_unpacked_tensors_are_aligned_as_torch_aligns():
    for length in (1, 3, 50):
        back = unpack(pack({"n" * length: torch.ones(33, 17), "b": torch.ones(3)}))
        assert all(tensor.data_ptr() % 64 == 0 for tensor in back.values())


def test_packing_leaves_gradients_behind():
    back = unpack(pack({"w": torch.nn.Parameter(torch.ones(2))}))
    assert not back["w"].requires_grad


def test_a_part_is_its_digest_and_size():
    payload = pack(TENSORS)
    assert part_of(payload) == Part(hashlib.sha256(payload).hexdigest(), len(payload))


def test_block_and_parts_of_a_job():
    parts = [Part(str(i), i) for i in range(7)]
    job = Job(
        round=0,
        client=1,
        seed=2,
        kind="text",
        config="{}",
        pad_id=0,
        shell=parts[0],
        tail=parts[1],
        segments=(
            Segment((1,), (parts[2],)),
            Segment((2, 3), (parts[3], parts[4]), trains=True),
            Segment((5, 7), (parts[5], parts[6]), bits=8),
        ),
        training=LocalTraining(1, 1, 1, 0, 1),
    )
    assert job.block == (2, 3)
    assert job.parts == tuple(parts)


def test_everything_is_frozen():
    found = [c for c in vars(types).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
    assert {"Capacity", "Part", "Segment", "LocalTraining", "Job", "Update"} <= {
        c.__name__ for c in found
    }
    for kind in found:
        assert kind.__dataclass_params__.frozen, kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        Part("a", 1).size_bytes = 2


def test_an_update_is_not_printed_with_its_payload():
    assert "secret" not in repr(Update(0, 1, (0,), 5, payload=b"secret"))
