"""Devices, their threads, and the precision of their matrix products.

product_dtype(hidden)      # inside autocast to bfloat16 torch.bfloat16, else hidden's own type
"""

import logging
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

import torch

from leff.errors import ConfigError, shown
from leff.wire.messages import Step

log = logging.getLogger("leff.models")

SLOW = 1.5  # times float32's time for a product, from which a processor is said to be slow
KNOWN = r"cpu|mps|cuda(:\d{1,3})?"


def product_dtype(inputs: torch.Tensor) -> torch.dtype:
    """Return the type of a product with `inputs`: autocast's type if it is on, else their own."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def check_step(step: Step, device: torch.device) -> None:
    """Raise ConfigError if a device cannot do steps like this one.

    A GPU older than Ampere only emulates bfloat16, which is slower than float32.  A CPU computes
    both; one without instructions for bfloat16 is slow, and a warning says so.  bitsandbytes has
    no 8-bit optimizer for Apple's GPU.
    """
    if step.optimizer == "adamw8bit" and device.type == "mps":
        raise ConfigError(
            "training.optimizer = 'adamw8bit' cannot run on 'mps'; use 'adamw', or engine.device = "
            "'cpu'"
        )
    if step.precision != "bfloat16" or device.type == "mps":
        return
    if device.type == "cpu":
        warn_of_slow_bfloat16()
        return
    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f"training.precision = 'bfloat16', which {torch.cuda.get_device_name(device)} "
                "does not have; use 'float32'"
            )


@cache
def warn_of_slow_bfloat16() -> None:
    """Log once in a process if this processor computes bfloat16 more slowly than float32."""
    times = {dtype: _product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)}
    slower = times[torch.bfloat16] / times[torch.float32]
    if slower > SLOW:
        log.warning(
            "training.precision = 'bfloat16' takes this processor %.1f times as long as 'float32' "
            "(a product of 512 x 512): it has no instructions for it",
            slower,
        )


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the seconds of a product of two matrices (512, 512), the best of five."""
    matrix, seconds = torch.ones(512, 512, dtype=dtype), list[float]()
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def torch_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first GPU, Apple's (mps), or else the CPU.

    Names are those of `KNOWN`: draws are seeded on no other device.  ConfigError for another name,
    and for a device that cannot be used.
    """
    if name == "auto":
        apple = "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device("cuda" if torch.cuda.is_available() else apple)
    if not re.fullmatch(KNOWN, name, re.ASCII):
        raise ConfigError(
            f"engine.device = {shown(name)} cannot be used; use 'auto', 'cpu', 'cuda', 'cuda:1' or "
            "'mps'"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0].partition(". ")[0]
        raise ConfigError(
            f"engine.device = {name!r} cannot be used ({reason}); use 'auto' or 'cpu'"
        ) from None
    return device


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float64, on the CPU if its device has no such numbers (mps)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def give_back(device: torch.device) -> None:
    """Give a GPU's memory that is free, but kept for later, back to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def pinned_threads(count: int) -> Generator[None]:
    """Run the body with `count` torch threads.  LayerNorm's gradient depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
