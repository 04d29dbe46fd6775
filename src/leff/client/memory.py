"""What training holds, measured on the tensors themselves; `leff.capacity` estimates it beforehand.

state_bytes(model, optimizer)      # after a step: weights, gradients, optimizer state
"""

import re

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
    keyed = {each._cdata: each.nbytes() for each in storages}  # pyright: ignore[reportPrivateUsage]
    return sum(keyed.values())


# how torch's allocator on the CPU says it, in a plain RuntimeError
MESSAGES = ("not enough memory", "can't allocate memory", "cannot allocate memory")


UNITS = {"": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error, or what it came from, says that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    if isinstance(error, RuntimeError | OSError) and any(known in text for known in MESSAGES):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def asked_bytes(error: BaseException) -> int:
    """Return the size of the allocation that failed, by the error's text; 0 if it says none."""
    found = re.search(r"[Tt]ried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)?", str(error))
    return int(float(found[1].rstrip(".")) * UNITS[found[2] or ""]) if found else 0


def resident_bytes(device: torch.device) -> int:
    """Return what is held now: tensors on a GPU, else this process's resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss
