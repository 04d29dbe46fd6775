"""The precision of a matrix product, and whether the hardware has it.

product_dtype(hidden)      # torch.bfloat16 inside autocast to it, else hidden's own
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leff.errors import ConfigError


def product_dtype(inputs: torch.Tensor) -> torch.dtype:
    """Return the type in which a product with `inputs` is computed here, as torch's modules do."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ConfigError if a device has no matrix products of training.precision's kind.

    A GPU older than Ampere emulates bfloat16, slower than float32; a CPU always computes it.
    """
    if precision != "bfloat16" or device.type != "cuda":
        return
    with torch.cuda.device(device):
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError(
                f"training.precision = 'bfloat16', which {torch.cuda.get_device_name(device)} "
                "does not have; use 'float32'"
            )


def torch_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is the first GPU, or the CPU without one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
def pinned_threads(count: int) -> Iterator[None]:
    """Run the body with `count` torch threads: LayerNorm's gradient depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
