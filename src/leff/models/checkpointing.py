"""Activation checkpointing: layers keep their inputs alone, and run again in the backward pass.

    recompute(model)      # from here on, in place

For the layers that have a graph, which are those that train and all after them.  Those before the
block have none, and keep nothing as it is.  (DeBERTa's tail feeds every layer, so there all have.)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from leff.models import blocks


def recompute(model: nn.Module) -> None:
    """Let every layer that has a graph run again in the backward pass (Chen et al. 2016).

    Results are the same to the bit, dropout included, which is drawn anew from the same state.
    """
    for layer in blocks(model):
        layer.forward = partial(_run, layer, layer.forward)


def _run(layer: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = (*layer.parameters(), *args, *kwargs.values())
    has_graph = any(isinstance(each, torch.Tensor) and each.requires_grad for each in given)
    if not (has_graph and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
