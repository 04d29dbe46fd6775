"""The forms in which trained tensors come back: whole, or as a difference of fewer bits.

    full    the trained values in fp32
    bf16    what training changed, in bfloat16
    int8    what training changed, as whole numbers from -127 to 127 times an fp32 scale: one a row,
            or one for a tensor of one dimension; a scale is the largest change / 127

    tensors, lost = encoded(differences, "int8")         # on the client; it keeps what was lost
    rebuild(payload, shapes, "int8", start, path)        # on the server: start + difference, fp32

The client adds what rounding lost to the next difference of the same tensor (error feedback: Seide
et al. 2014; Karimireddy et al. 2019; `client.residuals`), so the errors do not add up over rounds.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from leff.wire.headers import SCALE, Shapes, header
from leff.wire.messages import Upload
from leff.wire.tensors import Payload, one_by_one

Tensors = dict[str, torch.Tensor]
LARGEST = 127  # of an int8; -128 is not used, so that the range is symmetric


def encoded(changes: Mapping[str, torch.Tensor], upload: Upload) -> tuple[Tensors, Tensors]:
    """Return the tensors to send for fp32 differences, and what rounding lost of each, in fp32."""
    tensors: Tensors = {}
    for name, change in changes.items():
        tensors |= _bf16(name, change) if upload == "bf16" else _int8(name, change)
    read = tensors.__getitem__
    return tensors, {n: change - difference(n, upload, read) for n, change in changes.items()}


def _bf16(name: str, values: torch.Tensor) -> Tensors:
    return {name: values.to(torch.bfloat16)}


def _int8(name: str, values: torch.Tensor) -> Tensors:
    rows = _rows(values)  # (R, D)
    scales = rows.abs().amax(1) / LARGEST if rows.numel() else rows.new_zeros(len(rows))  # (R,)
    codes = torch.where(scales[:, None] > 0, rows / scales[:, None], 0.0)
    codes = codes.round().clamp(-LARGEST, LARGEST).to(torch.int8)
    shape = values.shape[:1] if values.dim() > 1 else ()
    return {name: codes.reshape(values.shape), f"{name}{SCALE}": scales.reshape(shape)}


def difference(name: str, upload: Upload, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """Return a tensor's difference in fp32, from what was sent."""
    values = read(name).float()
    if upload == "int8":
        scales = read(f"{name}{SCALE}")
        values = (_rows(values) * scales.reshape(-1, 1)).reshape(values.shape)
    return values


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Return a tensor as the rows that have a scale each, (R, D)."""
    return values.flatten(1) if values.dim() > 1 else values.reshape(1, -1)


def rebuild(
    payload: Payload, shapes: Shapes, upload: Upload, start: Mapping[str, torch.Tensor], path: Path
) -> str | None:
    """Write start + difference in fp32 to a file, as `tensors.pack` would; return what is wrong.

    The payload was checked (`checks.payload_fault`).  `start` has the fp32 values that the client
    started with.  One tensor is in memory at a time, if the payload is a file.  The reason is that
    a value is not finite; the file is then of no use.
    """
    read = one_by_one(payload)
    with path.open("wb") as file:
        file.write(header(shapes))
        for name in sorted(shapes):
            tensor = start[name].detach().cpu() + difference(name, upload, read)
            if not torch.isfinite(tensor).all():
                return f"{name} in the update is not finite"
            file.write(tensor.contiguous().numpy().tobytes())
    return None
