"""The header of safetensors bytes, checked before any tensor is made from them.

packed_bytes({"weight": (3, 4)})                      # what `tensors.pack` makes of these shapes
header_fault(payload, {"weight": (3, 4)})             # None, or the reason to refuse it

A payload comes from a client, so nothing is allocated by its word.  The shapes are known from the
job, and so is the form of the upload (`sent`).  They bound the header and the whole payload before
either is read.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leff.wire.messages import Upload
from leff.wire.tensors import Payload

VALUE_BYTES = {"F32": 4, "BF16": 2, "I8": 1}
DTYPES: Mapping[Upload, str] = {"full": "F32", "bf16": "BF16", "int8": "I8"}
SCALE = ":scale"  # ends the name of an int8 tensor's scales; no parameter's name has a colon
PREFIX = 8  # the header's length, a little-endian integer
SLACK = 1024  # bytes; other writers of the format may space their header in another way

Shapes = Mapping[str, Sequence[int]]
Sent = Mapping[str, tuple[str, tuple[int, ...]]]  # type and shape of each tensor, by name


def sent(shapes: Shapes, upload: Upload = "full") -> Sent:
    """Return what an upload of tensors of these shapes holds, in the order of its bytes.

    With int8 each tensor has fp32 scales: one a row, or one if it is 1-D.
    """
    found = {name: (DTYPES[upload], tuple(shape)) for name, shape in shapes.items()}
    if upload == "int8":
        rows = {name: tuple(shape[:1]) if len(shape) > 1 else () for name, shape in shapes.items()}
        found |= {f"{name}{SCALE}": ("F32", shape) for name, shape in rows.items()}
    order = sorted(found, key=lambda name: (-VALUE_BYTES[found[name][0]], name))  # safetensors' own
    return {name: found[name] for name in order}


def value_bytes(shapes: Shapes, upload: Upload = "full") -> int:
    """Return the bytes of an upload of tensors of these shapes, without a header."""
    return sum(map(_bytes, sent(shapes, upload).values()))


def _bytes(entry: tuple[str, tuple[int, ...]]) -> int:
    return VALUE_BYTES[entry[0]] * math.prod(entry[1])


def header(shapes: Shapes, upload: Upload = "full") -> bytes:
    """Return the bytes that `tensors.pack` writes before the values.

    These are the length as 8 bytes, and JSON that is padded to a multiple of 8 bytes.
    """
    offset, entries = 0, dict[str, object]()
    for name, (dtype, shape) in sent(shapes, upload).items():
        end = offset + _bytes((dtype, shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text.ljust(math.ceil(len(text) / 8) * 8)
    return len(padded).to_bytes(PREFIX, "little") + padded


def packed_bytes(shapes: Shapes, upload: Upload = "full") -> int:
    """Return the bytes of an upload of tensors of these shapes, as `tensors.pack` writes it."""
    return len(header(shapes, upload)) + value_bytes(shapes, upload)


def most_bytes(shapes: Shapes, upload: Upload = "full") -> int:
    """Return the most bytes that an upload of these shapes may have; more need not be read."""
    return _most_header(shapes, upload) + value_bytes(shapes, upload)


def _most_header(shapes: Shapes, upload: Upload) -> int:
    return 2 * len(header(shapes, upload)) + SLACK


def size_of(payload: Payload) -> int:
    """Return the bytes of a payload.  OSError if its file cannot be read."""
    return payload.stat().st_size if isinstance(payload, Path) else len(payload)


def _beginning(payload: Payload, count: int) -> bytes:
    if not isinstance(payload, Path):
        return payload[:count]
    with payload.open("rb") as file:
        return file.read(count)


def header_fault(payload: Payload, shapes: Shapes, upload: Upload = "full") -> str | None:
    """Return the reason why a payload is no upload of tensors of these shapes, or None.

    Only the header is read.  Whether the values are finite is another check.  OSError if the
    payload's file cannot be read.
    """
    size, most = size_of(payload), most_bytes(shapes, upload)
    if size > most:
        return f"the update has {size:,} bytes, the job asks for at most {most:,}"
    if size < PREFIX:
        return f"the update is no safetensors file: it has {size} bytes"
    beginning = _beginning(payload, PREFIX + _most_header(shapes, upload))
    length = int.from_bytes(beginning[:PREFIX], "little")
    if length > size - PREFIX:
        return f"the update is no safetensors file, or was cut off: it has {size:,} bytes"
    if length > _most_header(shapes, upload):
        return f"the update's header has {length:,} bytes, which is too many"
    try:
        entries = _parsed(beginning[PREFIX : PREFIX + length])
    except (ValueError, RecursionError):
        return "the update's header cannot be read"
    return _entries_fault(entries, sent(shapes, upload), size - PREFIX - length)


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


def _entries_fault(entries: Mapping[str, Any], wanted: Sent, size: int) -> str | None:
    """Return what is wrong with a header before `size` bytes of values, or None."""
    for name, entry in entries.items():
        fault = _entry_fault(name, entry, wanted)
        if fault is not None:
            return fault
    missing = wanted.keys() - entries.keys()
    if missing:
        return f"the update lacks {min(missing)}"
    return _offsets_fault(entries, wanted, size)


def _entry_fault(name: str, entry: object, wanted: Sent) -> str | None:
    """Return what is wrong with one tensor's name, type or shape, or None."""
    values = cast("dict[str, Any]", entry if isinstance(entry, dict) else {})
    shape = values.get("shape")
    sizes = cast("list[object]", shape) if isinstance(shape, list) else []
    if name not in wanted or sizes != list(wanted[name][1]) or not all(map(_is_whole, sizes)):
        return f"the update has {name} {tuple(sizes)}, which the job did not ask for"
    if values.keys() != {"dtype", "shape", "data_offsets"}:
        return f"the update's header does not describe {name} as safetensors does"
    dtype = wanted[name][0]
    if values["dtype"] != dtype:
        return f"{name} in the update is of type {values['dtype']}, the job asks for {dtype}"
    return None


def _offsets_fault(entries: Mapping[str, Mapping[str, Any]], wanted: Sent, size: int) -> str | None:
    """Return whose values are not where they should be, or None.

    The values follow one another without a gap, in any order, and nothing comes after them.
    """
    fault, end = "the update's header puts {} at bytes that are not its own", 0
    for name, entry in entries.items():
        if not _is_pair(entry["data_offsets"]):
            return fault.format(name)
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end or stop - start != _bytes(wanted[name]):
            return fault.format(name)
        end = stop
    return None if end == size else f"the update has {size:,} bytes of values instead of {end:,}"


def _is_pair(offsets: object) -> bool:
    pair = cast("list[object]", offsets) if isinstance(offsets, list) else []
    return len(pair) == 2 and all(map(_is_whole, pair))


def _is_whole(value: object) -> bool:
    return type(value) is int
