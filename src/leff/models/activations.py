"""Activation functions that keep less for the backward pass than the library's way.

fuse(model)      # GPT-2's GELU keeps one tensor, not four; Llama's gate two, not three
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import FastGELUActivation, NewGELUActivation, SiLUActivation

GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}  # the parts of Llama's MLP


def fuse(model: nn.Module) -> None:
    """Replace activation functions, in place, by such as keep less.

    - The tanh form of GELU is computed by torch.  Written out it makes eight tensors of its input's
      size and keeps four.  Results differ in the last bits.
    - SiLU(gate) · up, as in Llama and most later decoders (SwiGLU, Shazeer 2020), keeps the two and
      makes SiLU(gate) again.  Results are the same.

    These tensors are the largest of a layer.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))
        if _is_gated(module):
            module.forward = MethodType(_gated, module)  # bound anew in a deep copy


def _is_gated(module: Any) -> bool:
    """Return whether the module does just what Llama's MLP does; many models have a copy of it."""
    if {name for name, _ in module.named_children()} != GATED:
        return False
    from transformers.models.llama.modeling_llama import LlamaMLP  # takes long to import

    same = _instructions(type(module)) == _instructions(LlamaMLP)
    return same and isinstance(module.act_fn, nn.SiLU | SiLUActivation)


def _instructions(kind: Any) -> tuple[bytes, tuple[str, ...]]:
    code = kind.forward.__code__
    return code.co_code, code.co_names


def _gated(module: Any, x: torch.Tensor) -> torch.Tensor:
    product = _Gated.apply(module.gate_proj(x), module.up_proj(x))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
    return module.down_proj(product)


class _Gated(torch.autograd.Function):
    """SiLU(gate) · up of two tensors of one shape, both by torch's own kernels."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (gradient,) = grad_outputs
        gate, up = ctx.saved_tensors
        to_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return to_gate, gradient * functional.silu(gate)
