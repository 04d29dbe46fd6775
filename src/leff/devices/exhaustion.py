"""Memory that ran out on a client: telling it from other failures, and how much it was.

except Exception as error:
    if is_out_of_memory(error): held = resident_bytes(device) - before + asked_bytes(error)
"""

import re

import torch

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
