"""Frozen word embeddings in 16 bits: half the bytes on the wire and in the client's memory.

    shell = half_words(model, shell_state(model))     # on the server
    widen_words(model)                                # on the client: stored in 16, computed in 32

Only the word matrix (V, D) is halved, the largest frozen tensor of a small model; position tables
and norms stay in fp32, and so does a head of its own, which trains.  A head that is tied to the
words multiplies by them in fp32 without keeping an fp32 copy.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leff.errors import ModelError
from leff.families.states import State


def half_words(model: Any, shell: State) -> State:
    """Return the model's shell with its word embeddings as float16.

    ModelError if one of them is beyond float16's range, 65504.
    """
    words = model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is words)
    half = shell[name].half()
    if half.isinf().any():
        raise ModelError(
            f"{name} reaches {float(words.detach().abs().max()):.3g}, beyond float16's 65504; "
            "send the embeddings in 32 bits"
        )
    return {**shell, name: half}


def widen_words(model: Any) -> None:
    """Let a model whose word embeddings are float16 compute in fp32 with them, in place.

    Names and tensors stay as they are, and the words must stay frozen.  An embedding that scales
    its rows itself, such as Gemma's, does that in 16 bits.  Other models are left alone.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight.dtype != torch.float16:
        return
    embedding.weight.requires_grad_(False)
    embedding.register_forward_hook(_widened)
    if head is not None and head.weight is embedding.weight:
        head.forward = MethodType(_tied_logits, head)  # bound anew in a deep copy


def _widened(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def _tied_logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    logits = _WideProduct.apply(hidden, head.weight)  # (B, T, D), (V, D) -> (B, T, V)
    return logits if head.bias is None else logits + head.bias


class _WideProduct(torch.autograd.Function):
    """hidden @ W.T at hidden's precision; the cast W is made again for the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(hidden, weight.to(hidden.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ weight.to(gradient.dtype), None
