"""What training holds, measured on the tensors themselves; `leff.cost` estimates it beforehand.

state_bytes(model, optimizer)      # after a step: weights, gradients, optimizer state
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of weights, buffers, gradients and optimizer state, shared storage once.

    Quantised weights count with their scales and tables, wherever bitsandbytes keeps them.
    Activations and the libraries' own working memory are not in it.
    """
    tensors: list[torch.Tensor] = []
    for module in model.modules():
        held = [*module._parameters.values(), *module._buffers.values(), vars(module).get("state")]
        tensors += _tensors_in(held)
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    tensors += _tensors_in(v for state in optimizer.state.values() for v in state.values())
    storages = {(t.device, t.untyped_storage().data_ptr()): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield the tensors among values, and those that bitsandbytes hangs on them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        if type(value).__module__.startswith("bitsandbytes") and not isinstance(value, nn.Module):
            yield from _tensors_in(vars(value).values())
