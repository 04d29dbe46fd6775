"""Tensors as they cross the network: safetensors bytes, which nothing is ever unpickled from.

payload = pack({"weight": tensor})
unpack(payload)["weight"]            # equal to the bit
part_of(payload).digest              # by content
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from leff.wire.messages import Part

if TYPE_CHECKING:
    import torch

READ_BYTES = 2**24  # of a part's file that are in memory beside the tensor that is read


def pack(tensors: Mapping[str, "torch.Tensor"]) -> bytes:
    """Return `tensors` as safetensors bytes, in the order of their names."""
    from safetensors.torch import save

    return save({name: tensors[name].detach().contiguous() for name in sorted(tensors)})


def unpack(payload: bytes) -> dict[str, "torch.Tensor"]:
    """Return the tensors of `pack`'s bytes, on the CPU, in the order of their names.

    They are copied to where torch would have put them: safetensors aligns to 16 bytes, and the
    last bits of a matrix product may depend on the alignment.
    """
    from safetensors.torch import load

    tensors = load(payload)  # in any order
    return {name: tensors[name].clone() for name in sorted(tensors)}


def unpack_file(path: Path) -> "dict[str, torch.Tensor]":
    """Return the tensors of a file of `pack`'s bytes, as `unpack` does.

    Beside them no more than `READ_BYTES` or one row is in memory: the file is mapped anew for each
    piece, since what was read of a map stays in memory as long as the map.
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
        made = torch.empty(shape, dtype=file.get_slice(name)[:0].dtype)
    rows = max(1, READ_BYTES * shape[0] // max(1, made.nbytes))
    for first in range(0, shape[0], rows):
        with safe_open(path, "pt") as file:
            made[first : first + rows] = file.get_slice(name)[first : first + rows]
    return made


def part_of(payload: bytes) -> Part:
    """Return the part that `payload` is."""
    return Part(hashlib.sha256(payload).hexdigest(), len(payload))
