"""What LEFF uses of bitsandbytes.functional; the package types it in part."""

from collections.abc import Sequence

import torch

class QuantState:
    absmax: torch.Tensor
    def __init__(
        self,
        absmax: torch.Tensor,
        shape: Sequence[int] | None = None,
        code: torch.Tensor | None = None,
        blocksize: int | None = None,
        quant_type: str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...

def quantize_4bit(
    A: torch.Tensor,  # noqa: N803
    absmax: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    blocksize: int | None = None,
    compress_statistics: bool = False,
    quant_type: str = "fp4",
) -> tuple[torch.Tensor, QuantState]: ...
def dequantize_4bit(
    A: torch.Tensor,  # noqa: N803
    quant_state: QuantState | None = None,
) -> torch.Tensor: ...
def int8_vectorwise_quant(
    A: torch.Tensor,  # noqa: N803
    threshold: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]: ...
