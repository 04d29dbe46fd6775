"""The header of safetensors bytes, checked before any tensor is made from them.

packed_bytes({"weight": (3, 4)})                      # what `tensors.pack` makes of these shapes
header_fault(payload, {"weight": (3, 4)})             # None, or the reason to refuse it

A payload comes from a client, so nothing is allocated by its word.  The shapes are known from the
job.  They bound the header and the whole payload before either is read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

VALUE_BYTES = 4  # fp32
PREFIX = 8  # the header's length, a little-endian integer
SLACK = 1024  # bytes; other writers of the format may space their header in another way

Shapes = Mapping[str, Sequence[int]]


def value_bytes(shapes: Shapes) -> int:
    """Return the bytes of fp32 tensors of these shapes, without a header."""
    return VALUE_BYTES * sum(math.prod(shape) for shape in shapes.values())


def header_bytes(shapes: Shapes) -> int:
    """Return the bytes that `tensors.pack` writes before the values, the prefix among them.

    Safetensors has 8 bytes, and a JSON header padded to a multiple of 8 bytes.
    """
    offset, header = 0, dict[str, object]()
    for name in sorted(shapes):
        end = offset + VALUE_BYTES * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return PREFIX + math.ceil(len(text) / 8) * 8


def packed_bytes(shapes: Shapes) -> int:
    """Return the bytes that `tensors.pack` writes for fp32 tensors of these shapes."""
    return header_bytes(shapes) + value_bytes(shapes)


def most_bytes(shapes: Shapes) -> int:
    """Return the most bytes that a payload of these shapes may have; more need not be read."""
    return 2 * header_bytes(shapes) + SLACK + value_bytes(shapes)


def header_fault(payload: bytes, shapes: Shapes) -> str | None:
    """Return the reason why bytes do not hold exactly fp32 tensors of these shapes, or None.

    Only the header is read.  Whether the values are finite is another check.
    """
    if len(payload) > most_bytes(shapes):
        most = most_bytes(shapes)
        return f"the update has {len(payload):,} bytes, the job asks for at most {most:,}"
    if len(payload) < PREFIX:
        return f"the update is no safetensors file: it has {len(payload)} bytes"
    length = int.from_bytes(payload[:PREFIX], "little")
    if length > len(payload) - PREFIX:
        return f"the update is no safetensors file, or was cut off: it has {len(payload):,} bytes"
    if length > most_bytes(shapes) - value_bytes(shapes):
        return f"the update's header has {length:,} bytes, which is too many"
    try:
        header = _parsed(payload[PREFIX : PREFIX + length])
    except (ValueError, RecursionError):
        return "the update's header cannot be read"
    for name, entry in header.items():
        fault = _entry_fault(name, entry, shapes)
        if fault is not None:
            return fault
    missing = shapes.keys() - header.keys()
    if missing:
        return f"the update lacks {min(missing)}"
    return _offsets_fault(header, len(payload) - PREFIX - length)


def _parsed(text: bytes) -> dict[str, dict[str, Any]]:
    """Return the header.  Raises ValueError for a name that comes twice, and for other JSON."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a name comes twice")
        return values

    header = json.loads(text.decode(), object_pairs_hook=once)
    if not isinstance(header, dict):
        raise ValueError("the header is no object")
    return cast("dict[str, dict[str, Any]]", header)


def _entry_fault(name: str, entry: object, shapes: Shapes) -> str | None:
    """Return what is wrong with one tensor's name, type or shape, or None."""
    values = cast("dict[str, Any]", entry if isinstance(entry, dict) else {})
    shape = values.get("shape")
    sizes = cast("list[object]", shape) if isinstance(shape, list) else []
    if name not in shapes or sizes != list(shapes[name]) or not all(map(_is_whole, sizes)):
        return f"the update has {name} {tuple(sizes)}, which the job did not ask for"
    if values.keys() != {"dtype", "shape", "data_offsets"}:
        return f"the update's header does not describe {name} as safetensors does"
    if values["dtype"] != "F32":
        return f"{name} in the update is of type {values['dtype']}, the job asks for F32"
    return None


def _offsets_fault(header: Mapping[str, Mapping[str, Any]], size: int) -> str | None:
    """Return whose values are not where they should be, or None.

    The values follow one another without a gap, in any order, and nothing comes after them.
    """
    fault, end = "the update's header puts {} at bytes that are not its own", 0
    for name, entry in header.items():
        if not _is_pair(entry["data_offsets"]):
            return fault.format(name)
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end or stop - start != VALUE_BYTES * math.prod(entry["shape"]):
            return fault.format(name)
        end = stop
    return None if end == size else f"the update has {size:,} bytes of values instead of {end:,}"


def _is_pair(offsets: object) -> bool:
    pair = cast("list[object]", offsets) if isinstance(offsets, list) else []
    return len(pair) == 2 and all(map(_is_whole, pair))


def _is_whole(value: object) -> bool:
    return type(value) is int
