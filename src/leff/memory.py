"""What training holds, measured on the tensors themselves; `leff.cost` estimates it beforehand.

state_bytes(model, optimizer)      # after a step: weights, gradients, optimizer state
"""

import torch
from torch import nn


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of weights, buffers, gradients and optimizer state, shared storage once.

    Quantised weights are buffers.  Activations and the libraries' own working memory are not in it.
    """
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    moments = (value for state in optimizer.state.values() for value in state.values())
    tensors += [value for value in moments if isinstance(value, torch.Tensor)]
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
