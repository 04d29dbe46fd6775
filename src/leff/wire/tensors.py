"""Tensors as they cross the network: as safetensors bytes, so that nothing is ever unpickled.

payload = pack({"weight": tensor})
unpack(payload)["weight"]            # equal to the bit
part_of(payload).digest              # SHA-256 of the bytes
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leff.wire.messages import Part

if TYPE_CHECKING:
    import torch

READ_BYTES = 2**24  # the most of a part's file that is in memory beside the tensor being read


def pack(tensors: Mapping[str, "torch.Tensor"]) -> bytes:
    """Return `tensors` as safetensors bytes, in the order of their names."""
    from safetensors.torch import save

    return save({name: tensors[name].detach().contiguous() for name in sorted(tensors)})


def unpack(payload: bytes) -> dict[str, "torch.Tensor"]:
    """Return the tensors of `pack`'s bytes, on the CPU, in the order of their names.

    Each tensor is copied into memory that torch aligns.  safetensors aligns to 16 bytes only, and
    the last bits of a matrix product may depend on the alignment.
    """
    from safetensors.torch import load

    tensors = load(payload)  # in no fixed order
    return {name: tensors[name].clone() for name in sorted(tensors)}


def unpack_file(path: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file of `pack`'s bytes, as `unpack` does.

    Beside them at most `READ_BYTES` or one row is in memory.  The file is mapped anew for each
    piece, because the pages that were read stay in memory until the map is closed.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = sorted(file.keys())
    return {name: _read(path, name) for name in names}


def _read(path: Path, name: str) -> "torch.Tensor":
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        shape = file.get_slice(name).get_shape()
        if not shape:
            return file.get_tensor(name).clone()
        tensor = torch.empty(shape, dtype=file.get_slice(name)[:0].dtype)
    rows = max(1, READ_BYTES * shape[0] // max(1, tensor.nbytes))
    for first in range(0, shape[0], rows):
        with safe_open(path, "pt") as file:
            tensor[first : first + rows] = file.get_slice(name)[first : first + rows]
    return tensor


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file of `pack`'s bytes, in the order of their names."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}


def read_rows(path: Path, name: str, first: int, stop: int) -> "torch.Tensor":
    """Return some rows of one tensor in a file of `pack`'s bytes; a scalar is one row."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        rows = file.get_slice(name)
        return rows[first:stop].clone() if rows.get_shape() else file.get_tensor(name).clone()


def part_of(payload: bytes) -> Part:
    """Return the digest and the size of a part's bytes."""
    return Part(hashlib.sha256(payload).hexdigest(), len(payload))
