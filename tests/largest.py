"""The largest tensor that is made while something runs."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """`values` is the number of values in the largest result of any operation so far.

    Operations of a backward pass are seen too.  Views count with their own size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for found in result if isinstance(result, tuple | list) else (result,):
            if isinstance(found, torch.Tensor):
                self.values = max(self.values, found.numel())
        return result
