"""A model's forward pass in parts: the body, the head behind it, and no cache of keys and values.

body, weight = body_and_head(model)
body(**inputs, **uncached(body)).last_hidden_state @ weight.T      # the logits (B, T, V)
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from leff.models.detect import family_of


def body_and_head(model: Any) -> tuple[nn.Module, torch.Tensor] | None:
    """Return the body and the head's weight (V, D), or None where there is more to the logits.

    None for an architecture without a record, whose logits may be scaled, capped or moved, for a
    head with a bias, and for a loss that is not the causal language model's.
    """
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None
    causal = model.loss_type in (None, "ForCausalLM")  # None is read as such, with a warning
    if not (plain and causal and family_of(model).plain_head):
        return None
    return model.base_model, head.weight


def uncached(model: nn.Module) -> dict[str, bool]:
    """Return the argument by which a model, or its body, keeps no keys and values, if it can.

    They serve generation alone, and would be held for every layer, in all of a forward pass.
    """
    return (
        {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Put every module's mode and every parameter's `requires_grad` back after the body."""
    modes = {module: module.training for module in model.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
