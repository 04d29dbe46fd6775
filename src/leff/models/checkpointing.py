"""Activation checkpointing: a layer keeps only its inputs, and runs again in the backward pass.

    recompute(model)      # changes the model in place

Only layers with a graph run again: those that train, and all layers after them.  The layers before
the block have no graph and keep nothing anyway.  In DeBERTa every layer has a graph, because its
tail feeds every layer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]  # untyped

from leff.models import blocks


def recompute(model: nn.Module) -> None:
    """Let every layer that has a graph run again in the backward pass (Chen et al. 2016).

    Results are the same to the bit.  Dropout is drawn again from the same random state.
    """
    for layer in blocks(model):
        layer.forward = partial(_run, layer, layer.forward)


def _run(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    inputs = (*layer.parameters(), *args, *kwargs.values())
    has_graph = any(isinstance(each, torch.Tensor) and each.requires_grad for each in inputs)
    if not (has_graph and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)  # pyright: ignore[reportUnknownVariableType]  # untyped
