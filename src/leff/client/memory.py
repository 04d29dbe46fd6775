"""The memory that training takes, measured on the tensors.  `leff.capacity` predicts it.

state_bytes(model, optimizer)      # after a step: weights, gradients, optimizer state
"""

import re

import torch
from torch import nn


def state_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of weights, buffers, gradients and optimizer state, shared storage once.

    Quantised weights are buffers.  Activations and the libraries' working memory do not count.
    """
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    moments = (value for state in optimizer.state.values() for value in state.values())
    tensors += [value for value in moments if isinstance(value, torch.Tensor)]
    storages = (tensor.untyped_storage() for tensor in tensors)
    keyed = {each._cdata: each.nbytes() for each in storages}  # pyright: ignore[reportPrivateUsage]
    return sum(keyed.values())


# Torch's allocators of the CPU and of mps raise a plain RuntimeError with one of these texts.
MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "mps backend out of memory",
)
UNITS = {"": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or one of its causes, says that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    if isinstance(error, RuntimeError | OSError) and any(known in text for known in MESSAGES):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def asked_bytes(error: BaseException) -> int:
    """Return the bytes of the failed allocation, read from the error's text; 0 if not there."""
    size = re.search(r"[Tt]ried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)?", str(error))
    return int(float(size[1].rstrip(".")) * UNITS[size[2] or ""]) if size else 0


def resident_bytes(device: torch.device) -> int:
    """Return the bytes in use now: tensors on a GPU, otherwise this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.current_allocated_memory()
    import psutil

    return psutil.Process().memory_info().rss
