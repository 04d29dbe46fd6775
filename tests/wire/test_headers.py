"""Headers of payloads: only what the job asked for passes, and nothing is made by their word."""

import json
import math
import tracemalloc

import pytest
import torch

from leff.wire.headers import header_fault, most_bytes, packed_bytes, value_bytes
from leff.wire.tensors import pack, unpack

SHAPES = {"b": (3,), "w": (2, 3), "none": (0, 4), "one": ()}
TENSORS = {name: torch.full(shape, 1.5) for name, shape in SHAPES.items()}
GOOD = pack(TENSORS)


def parts(payload=GOOD):
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]), payload[8 + length :]


def built(header, values, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + values


def changed(name="w", **entry):
    header, values = parts()
    header[name] = {**header.get(name, {}), **entry}
    return built(header, values)


def test_what_pack_writes_passes_and_has_the_bytes_foretold():
    assert header_fault(GOOD, SHAPES) is None
    assert len(GOOD) == packed_bytes(SHAPES) <= most_bytes(SHAPES)


def test_another_order_and_spacing_pass_if_the_library_reads_them_the_same():
    header, _ = parts()
    end, moved, values = 0, {}, b""
    for name in reversed(list(header)):
        size = 4 * math.prod(SHAPES[name])
        moved[name] = {**header[name], "data_offsets": [end, end + size]}
        values += TENSORS[name].numpy().tobytes()
        end += size
    payload = built(json.dumps(moved, indent=1).encode(), values)
    assert header_fault(payload, SHAPES) is None
    assert all(torch.equal(t, TENSORS[n]) for n, t in unpack(payload).items())


HEADER, VALUES = parts()
TWICE = json.dumps(HEADER)[:-1] + ', "b": ' + json.dumps(HEADER["b"]) + "}"
BAD = {
    "nothing": (b"", "no safetensors file"),
    "a few bytes": (b"\x01\x02", "no safetensors file"),
    "a cut header": (GOOD[:40], "cut off"),
    "cut values": (GOOD[:-1], "bytes of values"),
    "more values": (GOOD + b"\0", "bytes of values"),
    "far too much": (GOOD + bytes(10_000), "at most"),
    "a length without end": (b"\xff" * 8 + GOOD[8:], "cut off"),
    "no JSON": (built(b"\x80pickle", VALUES), "cannot be read"),
    "no UTF-8": (built(b'{"\xff": 1}', VALUES), "cannot be read"),
    "a list": (built([1], VALUES), "cannot be read"),
    "deep": (built(b"[" * 1400, VALUES), "cannot be read"),
    "a long number": (built(b'{"b": ' + b"9" * 1400 + b"}", VALUES), "b ()"),
    "a name twice": (built(TWICE.encode(), VALUES), "cannot be read"),
    "missing": (built({n: e for n, e in HEADER.items() if n != "w"}, VALUES), "lacks w"),
    "extra": (changed("more", dtype="F32", shape=[1], data_offsets=[0, 4]), "has more (1,)"),
    "metadata": (built({"__metadata__": {"a": "b"}, **HEADER}, VALUES), "__metadata__ ()"),
    "another shape": (changed(shape=[3, 2]), "w (3, 2), which the job did not ask for"),
    "a shape of floats": (changed(shape=[2.0, 3.0]), "did not ask for"),
    "a shape of truths": (changed("one", shape=[True]), "did not ask for"),
    "a huge shape": (changed(shape=[10**12, 10**12]), "did not ask for"),
    "a negative shape": (changed(shape=[-2, -3]), "did not ask for"),
    "float64": (changed(dtype="F64"), "F64, the job asks for F32"),
    "float8": (changed(dtype="F8_E4M3"), "F8_E4M3"),
    "complex": (changed(dtype="C64"), "C64"),
    "int8": (changed(dtype="I8"), "I8"),
    "no type": (changed(dtype=None), "asks for F32"),
    "overlapping": (changed(data_offsets=[0, 24]), "not its own"),
    "a gap": (changed(data_offsets=[20, 44]), "not its own"),
    "backwards": (changed(data_offsets=[40, 16]), "not its own"),
    "far away": (changed(data_offsets=[10**15, 10**15 + 24]), "not its own"),
    "offsets of texts": (changed(data_offsets=["0", "24"]), "not its own"),
    "one more key": (changed(more=1), "as safetensors does"),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused_in_words(name):
    payload, words = BAD[name]
    assert words in (header_fault(payload, SHAPES) or "")


def test_a_header_of_too_many_bytes_is_not_read():
    shapes = {"w": (10_000,)}
    payload = pack({"w": torch.zeros(10_000)})
    most = most_bytes(shapes) - value_bytes(shapes)
    length = int.from_bytes(payload[:8], "little")
    text, values = payload[8 : 8 + length], payload[8 + length :]
    whole = built(text.ljust(len(text) + most_bytes(shapes) - len(payload)), values)
    assert len(whole) == most_bytes(shapes) and header_fault(whole, shapes) is None
    at_most = header_fault(built(text.ljust(most), values[8:]), shapes)
    assert at_most is not None and "too many" not in at_most  # its values are missing
    fault = header_fault(built(text.ljust(most + 1), values[16:]), shapes)
    assert fault is not None and "which is too many" in fault


def test_a_deep_header_of_a_large_job_is_refused():
    shapes = {f"layer.{i}": (2,) for i in range(3000)}
    deep = b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert header_fault(built(deep, bytes(24_000)), shapes) == "the update's header cannot be read"


def test_nothing_is_made_by_the_headers_word():
    payloads = [payload for payload, _ in BAD.values()] + [bytes(4_000_000)]
    tracemalloc.start()
    try:
        for payload in payloads:
            header_fault(payload, SHAPES)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * most_bytes(SHAPES)
