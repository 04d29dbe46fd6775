"""Memory for what is needed for a moment, again and again.

scratch = Scratch()
torch.mul(codes, scales, out=scratch.take(codes, codes.shape, torch.float32))
"""

import math
from collections.abc import Sequence

import torch


class Scratch:
    """Memory for one tensor of each type at a time, as large as the largest so far.

    New memory costs a page fault for every 4 KiB.  For a weight that is unpacked for each product
    these take longer than the product, if there are few tokens.
    """

    def __init__(self) -> None:
        self._held: dict[torch.dtype, torch.Tensor] = {}

    def take(self, like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return memory of this shape and type on the device of `like`.

        It is good until the next call with this type.
        """
        size, held = math.prod(shape), self._held.pop(dtype, None)
        if held is None or held.numel() < size or held.device != like.device:
            del held  # freed first
            held = torch.empty(size, dtype=dtype, device=like.device)
        self._held[dtype] = held
        return held[:size].view(*shape)
