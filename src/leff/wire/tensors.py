"""Tensors as they cross the network: as safetensors bytes, so that nothing is ever unpickled.

payload = pack({"weight": tensor})
unpack(payload)["weight"]            # equal to the bit
part_of(payload).digest              # SHA-256 of the bytes

A payload is bytes, or the path of a file that holds them.
"""

import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from leff.wire.messages import Part

if TYPE_CHECKING:
    import torch

READ_BYTES = 2**24  # the most of a file that is in memory beside the tensor being read
Payload = bytes | Path


def pack(tensors: Mapping[str, "torch.Tensor"]) -> bytes:
    """Return `tensors` as safetensors bytes, in the order of their names."""
    from safetensors.torch import save

    return save({name: tensors[name].detach().contiguous() for name in sorted(tensors)})


def pack_file(tensors: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Write `pack`'s bytes into a file, without all of them in memory."""
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    save_file({name: tensors[name].detach().contiguous() for name in sorted(tensors)}, path)


def unpack(payload: Payload) -> dict[str, "torch.Tensor"]:
    """Return the tensors of `pack`'s bytes, on the CPU, in the order of their names.

    Each tensor is copied into memory that torch aligns.  safetensors aligns to 16 bytes only, and
    the last bits of a matrix product may depend on the alignment.
    """
    if isinstance(payload, Path):
        return unpack_file(payload)
    tensors = _load(payload)  # in no fixed order
    return {name: tensors[name].clone() for name in sorted(tensors)}


def unpack_file(path: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file of `pack`'s bytes, as `unpack` does.

    Beside them at most `READ_BYTES` or one row is in memory.
    """
    return {name: _whole(path, name) for name in _names(path)}


def tensors_digest(states: "Iterable[Mapping[str, torch.Tensor]]") -> str:
    """Return the SHA-256 of tensors with their names and shapes."""
    sha = hashlib.sha256()
    for state in states:
        for name, tensor in sorted(state.items()):
            sha.update(f"{name} {tuple(tensor.shape)}\n".encode())
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def one_by_one(payload: Payload) -> Callable[[str], "torch.Tensor"]:
    """Return a function that gives a payload's tensor by name; of a file it reads only that one."""
    if isinstance(payload, Path):
        return partial(_whole, payload)
    return _load(payload).__getitem__


def slices(payload: Payload) -> "Generator[tuple[str, torch.Tensor]]":
    """Yield all values of a payload, a name and some rows at a time.

    Of a file at most `READ_BYTES` or one row is in memory.
    """
    if isinstance(payload, Path):
        for name in _names(payload):
            yield from ((name, rows) for _, rows in _rows(payload, name))
    else:
        yield from _load(payload).items()


def _load(payload: bytes) -> dict[str, "torch.Tensor"]:
    from safetensors.torch import load

    return load(payload)


def _names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sorted(file.keys())


def _whole(path: Path, name: str) -> "torch.Tensor":
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        rows = file.get_slice(name)
        shape: list[int] = rows.get_shape()
        dtype = rows[:0].dtype if shape else None
        if dtype is None or math.prod(shape) * dtype.itemsize <= READ_BYTES:
            return file.get_tensor(name).clone()
    tensor = torch.empty(shape, dtype=dtype)
    for first, rows in _rows(path, name):
        tensor[first : first + len(rows)] = rows
    return tensor


def shapes_of(payload: Payload) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a payload's tensors, in the order of their names."""
    from safetensors import safe_open

    if not isinstance(payload, Path):
        return {name: tuple(tensor.shape) for name, tensor in sorted(_load(payload).items())}
    with safe_open(payload, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def read_rows(path: Path, name: str, first: int, stop: int) -> "torch.Tensor":
    """Return some rows of one tensor in a file of `pack`'s bytes; a scalar is one row."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        rows = file.get_slice(name)
        return rows[first:stop].clone() if rows.get_shape() else file.get_tensor(name).clone()


def _rows(path: Path, name: str) -> "Generator[tuple[int, torch.Tensor]]":
    """Yield a tensor's rows, some at a time, with the number of the first.

    The file is mapped anew for each piece, because the pages that were read stay in memory until
    the map is closed.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        shape = file.get_slice(name).get_shape()
        if not shape:
            yield 0, file.get_tensor(name)
            return
        row_bytes = file.get_slice(name)[:1].nbytes if shape[0] else 1
    count = max(1, READ_BYTES // max(1, row_bytes))
    for first in range(0, shape[0], count):
        with safe_open(path, "pt") as file:
            yield first, file.get_slice(name)[first : first + count]


def part_of(payload: bytes) -> Part:
    """Return the digest and the size of a part's bytes."""
    return Part(hashlib.sha256(payload).hexdigest(), len(payload))
