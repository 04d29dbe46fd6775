"""Layers whose linear weights are sent in 8 or in 4 bits.

    tensors = quantised(layer, bits=4)
    left = install(layer, tensors, device)   # on the client: bitsandbytes' linear modules

8 bits: each output row has its own scale, absmax / 127 (LLM.int8(), Dettmers et al. 2022).  4
bits: NF4, a scale for every 64 weights, 0.5625 bytes a weight (QLoRA, Dettmers et al. 2023).
Computed and multiplied by bitsandbytes.  Biases and norms stay as they are, and so does the
computing, which is in the inputs' precision.
"""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.errors import ModelError

# It logs with every matrix product in eval mode, and on a GPU, that fp32 inputs are rounded; and
# when it is imported, that a CPU kernel which we do not use is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SCALE = "SCB"  # 8 bits, bitsandbytes' name: the maxima of a weight's rows, (out,)
GROUP_SCALE = "absmax"  # 4 bits: the maxima of groups of 64 weights, (⌈out·in/64⌉,)
GROUP = 64


def quantised(layer: nn.Module, bits: int) -> dict[str, torch.Tensor]:
    """Return a layer's tensors, every linear weight as codes and scales.

    8 bits: `weight` int8 (out, in) and `SCB`; 4 bits: `weight` uint8 (out, in/2) and `absmax`; 32
    bits: as they are.  ModelError if there is nothing to quantise, or an odd number of inputs.
    """
    tensors = {name: tensor.detach() for name, tensor in layer.state_dict().items()}
    if bits == 32:
        return tensors
    if not _linears(layer):
        raise ModelError(
            f"{type(layer).__name__} has no linear module that can be quantised; use context.bits "
            "= 32 with the context distil or drop"
        )
    code = {8: _in_8_bits, 4: _in_4_bits}[bits]
    for name, linear in _linears(layer).items():
        weight = tensors.pop(f"{name}.weight")
        rows = weight.t() if isinstance(linear, Conv1D) else weight  # (out, in)
        # On the CPU whatever the layer's device: there it takes fp32, and gives the same bytes.
        scale, codes, scales = code(name, rows.float().cpu().contiguous())
        tensors |= {f"{name}.weight": codes, f"{name}.{scale}": scales}
    return tensors


def _in_8_bits(name: str, rows: torch.Tensor) -> tuple[str, torch.Tensor, torch.Tensor]:
    from bitsandbytes.functional import int8_vectorwise_quant

    codes, maxima, _ = int8_vectorwise_quant(rows)
    return SCALE, codes, maxima


def _in_4_bits(name: str, rows: torch.Tensor) -> tuple[str, torch.Tensor, torch.Tensor]:
    from bitsandbytes.functional import quantize_4bit

    if rows.shape[1] % 2:
        raise ModelError(
            f"{name} has {rows.shape[1]} inputs, and two weights of a row share a byte in 4 bits; "
            "use context.bits = 8"
        )
    codes, state = quantize_4bit(rows, blocksize=GROUP, quant_type="nf4")
    return GROUP_SCALE, codes.view(rows.shape[0], -1), state.absmax


def install(
    layer: nn.Module, tensors: Mapping[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """Swap the linear modules whose weights are quantised, and return the tensors that are left.

    The layer may be on the meta device: the new modules hold their tensors, on `device`, since
    moving them later leaves the scales behind.
    """
    left = dict(tensors)
    for name, linear in _linears(layer).items():
        scale = next((s for s in MODULES if f"{name}.{s}" in left), None)
        if scale is None:
            continue
        codes = left.pop(f"{name}.weight").to(device)
        bias = left.pop(f"{name}.bias", None)
        swapped = MODULES[scale](codes, left.pop(f"{name}.{scale}").to(device), bias is not None)
        if bias is not None:
            swapped.bias = nn.Parameter(bias.to(device, copy=True), requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(layer.get_submodule(parent), child, swapped.train(linear.training))
    return left


def _linear_8_bits(codes: torch.Tensor, maxima: torch.Tensor, bias: bool) -> nn.Module:
    from bitsandbytes.nn.modules import Int8Params, Linear8bitLt

    with torch.device("meta"):
        linear = Linear8bitLt(codes.shape[1], codes.shape[0], bias=bias, has_fp16_weights=False)
    new: Any = Int8Params  # its __new__ has no types
    linear.weight = new(codes, requires_grad=False, has_fp16_weights=False, CB=codes, SCB=maxima)
    return linear


class Linear4(nn.Module):
    """A frozen linear module whose weight is unpacked for each product, forward and backward.

    bitsandbytes' own misreads groups that cross rows on the CPU (inputs not a multiple of 64), and
    in eval mode repacks its weights for a product in bf16.  Unpacked as one row they are exact.
    """

    def __init__(self, codes: torch.Tensor, maxima: torch.Tensor, bias: bool) -> None:
        super().__init__()
        self.out_features, self.in_features = codes.shape[0], 2 * codes.shape[1]
        self.codes: torch.Tensor
        self.maxima: torch.Tensor
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("maxima", maxima, persistent=False)
        self.bias: nn.Parameter | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return _Product.apply(hidden, self.codes, self.maxima, self.bias)


class _Product(torch.autograd.Function):
    """hidden · Wᵀ + b, keeping W (out, in) for the backward pass as codes alone; b is frozen."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, codes: Any, maxima: Any, bias: Any) -> torch.Tensor:
        ctx.save_for_backward(codes, maxima)
        return nn.functional.linear(hidden, unpacked(codes, maxima), bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (gradient,) = grad_outputs
        return gradient @ unpacked(*ctx.saved_tensors).to(gradient.dtype), None, None, None


def unpacked(codes: torch.Tensor, maxima: torch.Tensor) -> torch.Tensor:
    """Return the fp32 weight (out, in) of NF4 codes (out, in/2) and their groups' maxima."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    count = 2 * codes.numel()
    state = QuantState(
        maxima, shape=(1, count), blocksize=GROUP, quant_type="nf4", dtype=torch.float32
    )
    return dequantize_4bit(codes.view(-1, 1), state).view(codes.shape[0], -1)


MODULES = {SCALE: _linear_8_bits, GROUP_SCALE: Linear4}


def rebuilt(layer: nn.Module, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a frozen copy of `layer` that holds `tensors`, as the client will run it."""
    copied = copy.deepcopy(layer).eval().requires_grad_(False)
    copied.load_state_dict(install(copied, tensors, next(layer.parameters()).device), strict=False)
    for linear in _linears(copied).values():
        linear.train()  # in training the CPU's product has fp32 inputs, in eval mode 8-bit ones
    return copied


def _linears(layer: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
