"""The optimizer of local training (PAPER Sec. 3.4: AdamW).

make_optimizer("adamw8bit", parameters, learning_rate=1e-4, weight_decay=0.01)
"""

from collections.abc import Sequence

import torch
from torch import nn

from leff.wire.messages import Optimizer


def make_optimizer(
    name: Optimizer,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return AdamW with both moments in fp32, 8 bytes a value, or in 8 bits, 2.03 bytes a value.

    The 8-bit moments are bitsandbytes': blocks of 256 values share a scale (Dettmers et al. 2022,
    "8-bit Optimizers via Block-wise Quantization").  Tensors of fewer than 4096 values keep fp32
    moments.
    """
    if name == "adamw":
        return torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay, fused=True
        )
    from bitsandbytes.optim.adamw import AdamW8bit

    return AdamW8bit(parameters, lr=learning_rate, weight_decay=weight_decay)
