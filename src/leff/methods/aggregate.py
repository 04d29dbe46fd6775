"""Layer-wise aggregation (PAPER Sec. 3.5).

Θ^l = Σ_{i ∈ S_l} D_i · Θ_i^l / Σ_{j ∈ S_l} D_j ,   S_l the clients that trained layer l

merge_layers(model, add_up(updates))                          # the paper's
Merge(relaxation=1.0, momentum=0.9).apply(model, means)       # a limited step, with momentum
"""

from collections.abc import Mapping

import torch
from torch import nn

from leff.methods.sums import Mean, Means


def merge_layers(model: nn.Module, means: Means, relaxation: float | None = None) -> None:
    """Put the means of the clients' layers and tails into the model (`Merge`)."""
    Merge(relaxation).apply(model, means)


class Merge:
    """Layer-wise aggregation with a limited step, and momentum over rounds.

        Θ_l ← Θ_l + s_l · (mean_l - Θ_l),   s_l = min(1, η · share_l)

    `relaxation` is η, and share_l = Σ_{i ∈ S_l} D_i / Σ_i D_i over all updates.  None is the
    paper's merge, s_l = 1: all blocks move by their whole step at once, though each was trained
    while the others were frozen.  This block-Jacobi step may overshoot.  With η = 1 the result is
    the mean of the clients' full models, each with only its own block changed.  If the loss is
    convex, the mean's loss is not above the clients' average (Jensen's inequality).  A tensor that
    all clients trained (the tail) gets its mean to the bit for η ≥ 1.  Source: our own; compare
    FedAvg (McMahan et al. 2017), where clients that did not take part count as unmoved.

    `momentum` is β of FedAvgM (Hsu et al. 2019), for the tensors that a client trained:

        m_l ← β · m_l + step_l ,   Θ_l ← Θ_l + m_l

    Other tensors keep their bits and their m.  m is float32 and the only state.
    """

    def __init__(self, relaxation: float | None = None, momentum: float = 0.0) -> None:
        """Raise ValueError unless `relaxation` is above 0 and `momentum` in [0, 1)."""
        if relaxation is not None and not relaxation > 0:
            raise ValueError(f"relaxation must be above 0, got {relaxation}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
        self._relaxation, self._momentum = relaxation, momentum
        self._velocity: dict[str, torch.Tensor] = {}  # m

    @torch.no_grad()
    def apply(self, model: nn.Module, means: Means) -> None:
        """Merge the clients' means into the model; a tensor without a mean keeps its bits.

        Raises ValueError, and changes nothing, if a mean does not match a parameter of the model
        by name and shape.
        """
        parameters = dict(model.named_parameters())
        for name, shape in means.shapes.items():
            if name not in parameters or shape != parameters[name].shape:
                raise ValueError(f"{name} is {shape} in the updates, not in the model")
        for name, mean in means.means():
            start = parameters[name].to(mean.tensor)
            target = self._relaxed(start, mean)
            if self._momentum:
                target = self._carried(name, start, target)
            parameters[name].copy_(target)

    def _relaxed(self, start: torch.Tensor, mean: Mean) -> torch.Tensor:
        step = 1.0 if self._relaxation is None else self._relaxation * mean.share
        if step >= 1 - 1e-12:  # rounding may put 1/share · share just below 1
            return mean.tensor
        return (1 - step) * start + step * mean.tensor  # this form keeps the signs of zeros

    def _carried(self, name: str, start: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        velocity = target - start
        if name in self._velocity:
            carried = self._momentum * self._velocity[name].to(start)
            velocity, target = velocity + carried, target + carried
        self._velocity[name] = velocity.to(torch.float32)
        return target

    def state(self) -> dict[str, torch.Tensor]:
        """Return m by parameter name; empty without momentum."""
        return dict(self._velocity)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._velocity = dict(state)
