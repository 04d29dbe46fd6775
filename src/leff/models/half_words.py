"""Frozen word embeddings in 16 bits: half the bytes on the wire and in the client's memory.

    shell = half_words(model, shell_state(model))     # on the server
    widen_words(model)                                # on the client: stored in 16, computed in 32

Only the word matrix (V, D) is halved, the largest frozen tensor of a small model, and a head of its
own where that is frozen too; position tables, norms and a head that trains stay in fp32.  One in
16 bits multiplies in fp32 without keeping an fp32 copy.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leff.errors import ModelError
from leff.models.states import State, own_frozen_head


def half_words(model: Any, shell: State) -> State:
    """Return the model's shell with its word embeddings, and a frozen head, as float16.

    ModelError if a value is beyond float16's range, 65504.
    """
    halved = {}
    for name, parameter in model.named_parameters():
        if any(parameter is weight for weight in frozen_words(model)):
            halved[name] = shell[name].half()
            if halved[name].isinf().any():
                raise ModelError(
                    f"{name} reaches {float(parameter.detach().abs().max()):.3g}, beyond float16's "
                    "65504; send the embeddings in 32 bits"
                )
    return {**shell, **halved}


def frozen_words(model: Any) -> list[nn.Parameter]:
    """Return what never trains and has a row a word: the embeddings, and a frozen head."""
    head = own_frozen_head(model)
    return [model.get_input_embeddings().weight, *([] if head is None else [head.weight])]


def widen_words(model: Any) -> None:
    """Let a model whose word embeddings or head are float16 compute in fp32 with them, in place.

    Names and tensors stay as they are, and the words must stay frozen.  An embedding that scales
    its rows itself, such as Gemma's, does that in 16 bits.  Other models are left alone.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding.weight.dtype == torch.float16:
        embedding.weight.requires_grad_(False)
        embedding.register_forward_hook(_widened)
    if head is not None and head.weight.dtype == torch.float16:
        head.weight.requires_grad_(False)
        head.forward = MethodType(_wide_logits, head)  # bound anew in a deep copy


def _widened(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def _wide_logits(head: Any, hidden: torch.Tensor) -> torch.Tensor:
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
