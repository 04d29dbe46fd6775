"""A model's forward pass in parts: the body, the head behind it, and no cache of keys and values.

body, weight = body_and_head(model)
body(**inputs, **uncached(body)).last_hidden_state @ weight.T      # the logits (B, T, V)
"""

import inspect
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from leff.models.detect import family_of


def body_and_head(model: Any) -> tuple[nn.Module, torch.Tensor] | None:
    """Return the body and the head's weight (V, D), or None if the logits need more than these.

    None for an architecture without a record, since it may scale, cap or shift its logits; for a
    head with a bias; and for a loss other than a causal language model's.
    """
    head = model.get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None  # pyright: ignore[reportUnnecessaryComparison]  # torch types it as never None
    causal = model.loss_type in (None, "ForCausalLM")  # the library reads None so, with a warning
    if not (plain and causal and family_of(model).plain_head):
        return None
    return model.base_model, head.weight


def uncached(model: nn.Module) -> dict[str, bool]:
    """Return the argument that stops a model, or its body, from caching keys and values.

    Empty if it takes no such argument.  Only generation needs the cache, and it would hold every
    layer's keys and values throughout a forward pass.
    """
    parameters = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in parameters else {}


@contextmanager
def undisturbed(model: nn.Module) -> Generator[None]:
    """Restore every module's mode and every parameter's `requires_grad` after the body."""
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
