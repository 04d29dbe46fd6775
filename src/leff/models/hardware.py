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

log = logging.getLogger("leff.models")

SLOW = 1.5  # times float32's time for a product, from which a processor is said to be slow
KNOWN = r"cpu|cuda(:\d{1,3})?"


def product_dtype(inputs: torch.Tensor) -> torch.dtype:
    """Return the type of a product with `inputs`: autocast's type if it is on, else their own."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if a device does not compute matrix products in this precision.

    A GPU older than Ampere only emulates bfloat16, which is slower than float32.  A CPU computes
    both; one without instructions for bfloat16 is slow, and a warning says so.
    """
    if precision != "bfloat16":
        return
    if device.type != "cuda":
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
    """Return the device of that name; "auto" is the first GPU, or the CPU if there is none.

    Names are those of `KNOWN`: draws are seeded on no other device.  ConfigError for another name,
    and for a device that cannot be used.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(KNOWN, name, re.ASCII):
        raise ConfigError(
            f"engine.device = {shown(name)} cannot be used; use 'auto', 'cpu', 'cuda' or 'cuda:1'"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(
            f"engine.device = {name!r} cannot be used ({reason}); use 'auto' or 'cpu'"
        ) from None
    return device


@contextmanager
def pinned_threads(count: int) -> Generator[None]:
    """Run the body with `count` torch threads.  LayerNorm's gradient depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
