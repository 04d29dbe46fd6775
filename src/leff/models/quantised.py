"""Layers whose linear weights are sent in 16, 8 or 4 bits.

    tensors = quantised(layer, bits=4)
    left = install(layer, tensors, device)   # on the client: modules that unpack as they multiply

- 16 bits: the nearest bfloat16 (8 significant bits, fp32's range).
- 8 bits: each output row has a scale, absmax / 127 (LLM.int8(), Dettmers et al. 2022).
- 4 bits: NF4, a scale for every 64 weights, 0.5625 bytes a weight (QLoRA, Dettmers et al. 2023).

bitsandbytes packs 8 and 4 bits.  Biases and norms stay as they are.  Products are computed in the
inputs' precision.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.pytorch_utils import Conv1D

from leff.errors import ModelError
from leff.models.detect import linears
from leff.models.hardware import product_dtype
from leff.models.scratch import Scratch

# On import it logs that a CPU kernel is not installed, which we do not use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SCALE = "SCB"  # 8 bits, bitsandbytes' name: the maxima of a weight's rows, (out,)
GROUP_SCALE = "absmax"  # 4 bits: the maxima of groups of 64 weights, (⌈out·in/64⌉,)
SCALES = (SCALE, GROUP_SCALE)
GROUP = 64
ROWS = 256  # of a weight that are fp32 at a time on the way to another type: they stay in the cache


def quantised(layer: nn.Module, bits: int) -> dict[str, torch.Tensor]:
    """Return a layer's tensors, with every linear weight as codes and scales.

    - 32 bits: the tensors as they are;
    - 16 bits: `weight` bfloat16 (out, in), without scales;
    - 8 bits: `weight` int8 (out, in) and `SCB` (out,);
    - 4 bits: `weight` uint8 (out, in/2) and `absmax` (⌈out·in/64⌉,).

    ModelError if there is nothing to quantise, or for an odd number of inputs in 4 bits.
    """
    tensors = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    if bits == 32:
        return tensors
    modules = linears(layer)
    if not modules:
        raise ModelError(
            f"{type(layer).__name__} has no linear module that can be quantised; use context.bits "
            "= 32 with the context distil or drop"
        )
    for name, linear in modules.items():
        weight = tensors.pop(f"{name}.weight")
        rows = weight.t() if isinstance(linear, Conv1D) else weight  # (out, in)
        # Always on the CPU: bitsandbytes takes fp32 there, and the bytes are always the same.
        packed = PACKED[bits](name, rows.float().cpu().contiguous())
        tensors |= {f"{name}.{key}": tensor for key, tensor in packed.items()}
    return tensors


def _in_16_bits(name: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"weight": rows.bfloat16()}


def _in_8_bits(name: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    if isinstance(rows, FakeTensor):  # a rehearsal's; bitsandbytes takes seconds to import
        codes = torch.empty_like(rows, dtype=torch.int8)
        return {"weight": codes, SCALE: rows.new_empty(len(rows))}
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, maxima, _ = int8_vectorwise_quant(rows)
    return {"weight": codes, SCALE: maxima}


def _in_4_bits(name: str, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    from bitsandbytes.functional import quantize_4bit

    if rows.shape[1] % 2:
        raise ModelError(
            f"{name} has {rows.shape[1]} inputs, and two weights of a row share a byte in 4 bits; "
            "use context.bits = 8"
        )
    codes, state = quantize_4bit(rows, blocksize=GROUP, quant_type="nf4")
    return {"weight": codes.view(rows.shape[0], -1), GROUP_SCALE: state.absmax}


PACKED = {16: _in_16_bits, 8: _in_8_bits, 4: _in_4_bits}


def install(
    layer: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    scratch: Scratch | None = None,
) -> dict[str, torch.Tensor]:
    """Replace the linear modules whose weights are quantised, and return the other tensors.

    The new modules hold their tensors on `device`, and unpack weights in `scratch`, which layers of
    a model share.  The layer itself may be on the meta device.
    """
    left, scratch = dict(tensors), scratch or Scratch()
    for name in linears(layer):
        scales = next((left.pop(key) for s in SCALES if (key := f"{name}.{s}") in left), None)
        weight = left.get(f"{name}.weight")
        if scales is None and (weight is None or weight.dtype != torch.bfloat16):
            continue
        codes = left.pop(f"{name}.weight")
        bias = left.pop(f"{name}.bias", None)
        swapped = QuantisedLinear(
            codes.to(device),
            None if scales is None else scales.to(device),
            None if bias is None else bias.to(device, copy=True),
            scratch,
        )
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, swapped)
    return left


class QuantisedLinear(nn.Module):
    """A frozen linear module that unpacks its weight for each product, forward and backward.

    A product is the same on every device, in the inputs' precision.  bitsandbytes' own modules
    would differ:

    - they round the inputs to 8 bits too, on a GPU, and on the CPU in eval mode;
    - on the CPU they misread 4-bit groups that cross rows (inputs not a multiple of 64);
    - they repack weights in eval mode.
    """

    def __init__(
        self,
        codes: torch.Tensor,
        scales: torch.Tensor | None,
        bias: torch.Tensor | None,
        scratch: Scratch,
    ) -> None:
        super().__init__()
        self.scratch = scratch
        self.out_features = codes.shape[0]
        self.in_features = codes.shape[1] * (2 if codes.dtype == torch.uint8 else 1)
        self.codes: torch.Tensor
        self.scales: torch.Tensor | None
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _Product.apply(hidden, self.codes, self.scales, self.bias, self.scratch)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped


class _Product(torch.autograd.Function):
    """hidden · Wᵀ + b with W and b frozen; only W's codes are kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        codes: torch.Tensor,
        scales: torch.Tensor | None,
        bias: torch.Tensor | None,
        scratch: Scratch,
    ) -> torch.Tensor:
        ctx.save_for_backward(codes, scales)
        ctx.scratch = scratch
        weight = unpacked(codes, scales, product_dtype(hidden), scratch)
        return nn.functional.linear(hidden, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = grad_outputs
        codes, scales = ctx.saved_tensors
        weight = unpacked(codes, scales, gradient.dtype, ctx.scratch)
        return gradient @ weight, None, None, None, None


def unpacked(
    codes: torch.Tensor,
    scales: torch.Tensor | None,
    dtype: torch.dtype = torch.float32,
    scratch: Scratch | None = None,
) -> torch.Tensor:
    """Return the weight (out, in) of codes as `dtype`, in `scratch` or else in new memory.

    The codes are int8 (out, in) or NF4's uint8 (out, in/2), which takes new memory always.  A
    weight in 16 bits has no scales.  If it has the type already, it is returned as it is.
    """
    if scales is None and codes.dtype == dtype:
        return codes
    if scales is not None and codes.dtype == torch.uint8:
        return _of_nf4(codes, scales, dtype)
    scratch = scratch or Scratch()
    weight = scratch.take(codes, codes.shape, dtype)
    if scales is None:
        return weight.copy_(codes)
    unit = (scales / 127)[:, None]
    if dtype == torch.float32:
        return weight.copy_(codes).mul_(unit)
    rows = min(ROWS, len(codes))  # in fp32, and rounded once
    for first in range(0, len(codes), rows):
        part = slice(first, first + rows)
        wide = scratch.take(codes, codes[part].shape, torch.float32)
        weight[part] = wide.copy_(codes[part]).mul_(unit[part])
    return weight


def _of_nf4(codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    shape = (1, 2 * codes.numel())  # bitsandbytes takes no memory to write to on a CPU
    state = QuantState(scales, shape=shape, blocksize=GROUP, quant_type="nf4", dtype=dtype)
    return dequantize_4bit(codes.view(-1, 1), state).view(codes.shape[0], -1)


def rebuilt(
    layer: nn.Module, tensors: Mapping[str, torch.Tensor], scratch: Scratch | None = None
) -> nn.Module:
    """Return a frozen copy of `layer` with `tensors` in it, as a client will run it.

    Layers that run one after another may share the `scratch`.
    """
    copied = copy.deepcopy(layer).eval().requires_grad_(False)
    left = install(copied, tensors, next(layer.parameters()).device, scratch)
    copied.load_state_dict(left, strict=False)
    return copied
