"""Frozen word embeddings in 16 bits: half the bytes on the wire and in the client's memory.

    shell = half_words(model, shell_state(model))     # on the server
    widen_words(model)                                # on the client: stored in 16, computed in 32

Only the word matrix (V, D) is halved, which is the largest frozen tensor of a small model, and an
untied head if it is frozen too.  Position tables, norms and a head that trains stay in fp32.  A
head in 16 bits multiplies in fp32, but no fp32 copy of it is kept.
"""

from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from leff.errors import ModelError
from leff.models.states import State, own_frozen_head


def half_words(model: Any, shell: State) -> State:
    """Return the model's shell with its word embeddings, and a frozen head, as float16.

    ModelError if a value is outside float16's range, ±65504.
    """
    halved: State = {}
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
    """Return the frozen parameters with a row for each word: the embeddings, and a frozen head."""
    head = own_frozen_head(model)
    return [model.get_input_embeddings().weight, *([] if head is None else [head.weight])]


def widen_words(model: Any) -> None:
    """Make a model with float16 word embeddings or a float16 head compute in fp32, in place.

    Names and tensors stay as they are, and the words must stay frozen.  An embedding that scales
    its own rows, such as Gemma's, scales them in 16 bits.  Any other model is left unchanged.
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
    # (B, T, D), (V, D) -> (B, T, V)
    logits = cast("torch.Tensor", _WideProduct.apply(hidden, head.weight))  # pyright: ignore[reportUnknownMemberType]  # untyped
    return logits if head.bias is None else logits + head.bias


class _WideProduct(torch.autograd.Function):
    """hidden @ W.T in hidden's precision; the backward pass casts W again."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(hidden, weight.to(hidden.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient @ weight.to(gradient.dtype), None
