"""."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mean:
    """The mean of one tensor, in float64, and its clients' share of the weight of all updates."""

    tensor: torch.Tensor
    share: float  # in (0, 1]


def weighted_mean(
    updates: Iterable[tuple[float, Mapping[str, torch.Tensor]]],
) -> dict[str, Mean]:
    """Return the weighted mean of each tensor over the updates that hold it.

    Weights are positive numbers of any scale (D_i).  A tensor that no update holds is not in the
    result, so the caller leaves it as it was.  Shapes must agree.

    Raises ValueError for a weight that is not positive, and for shapes that differ.
    """
    sums: dict[str, torch.Tensor] = {}
    weights: dict[str, float] = {}
    total = 0.0
    for weight, tensors in updates:
        if not weight > 0:
            raise ValueError(f"the weight of an update must be above 0, got {weight}")
        total += weight
        for name, tensor in tensors.items():
            term = tensor.to(torch.float64) * weight
            if name not in sums:
                sums[name] = term
            elif term.shape == sums[name].shape:
                sums[name] += term
            else:
                raise ValueError(
                    f"{name} is {tuple(term.shape)} in one update, {tuple(sums[name].shape)} in "
                    "those before"
                )
            weights[name] = weights.get(name, 0.0) + weight
    return {n: Mean(sums[n].div_(weights[n]), weights[n] / total) for n in sums}
