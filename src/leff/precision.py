"""The precision of a matrix product.

product_dtype(hidden)      # torch.bfloat16 inside autocast to it, else hidden's own
"""

from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def product_dtype(inputs: torch.Tensor) -> torch.dtype:
    """Return the type in which a product with `inputs` is computed here, as torch's modules do."""
    device = inputs.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
