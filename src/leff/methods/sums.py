"""Sums over clients.  Most methods need nothing else to merge a round.

    sums = add_up(updates)             # in the order of client ids
    sums.mean("transformer.h.0.attn.c_attn.weight")

Every tensor has its own sum, so clients may send different layers.  Sums are float64 and are added
in the order given.  Callers give the order of client ids, so the order of arrival does not matter.
The mean of identical tensors equals them to the bit.  Only one update is in memory at a time.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from leff.wire.messages import Update
from leff.wire.tensors import unpack


@dataclass(frozen=True)
class Mean:
    """The mean of one tensor, in float64, and its clients' share of all clients' weight."""

    tensor: torch.Tensor
    share: float  # in (0, 1]


@dataclass(frozen=True)
class Sums:
    """Sums over clients: each tensor's sum runs over the clients that trained the tensor.

    `tensors` has Σ D_i · Θ_i in float64, and `weights` has Σ D_i of the same clients, by name.
    `total` is Σ D_i of all clients.  `scores` has (Σ D_i · I_l, Σ D_i) by layer, for the importance
    that clients measured.
    """

    tensors: Mapping[str, torch.Tensor]
    weights: Mapping[str, float]
    total: float
    scores: Mapping[int, tuple[float, float]] = field(
        default_factory=dict[int, tuple[float, float]]
    )

    def mean(self, name: str) -> Mean:
        """Return the mean of one tensor, weighted by D_i."""
        return Mean(self.tensors[name] / self.weights[name], self.weights[name] / self.total)

    def means(self) -> Iterator[tuple[str, Mean]]:
        """Yield every tensor's name and mean, with one mean in memory at a time."""
        return ((name, self.mean(name)) for name in self.tensors)


def add_up(updates: Iterable[Update]) -> Sums:
    """Return the sums of a round's updates; empty without updates.

    Raises ValueError like `weighted_sums`.
    """
    scores: dict[int, tuple[float, float]] = {}

    def weighed() -> Iterator[tuple[float, Mapping[str, torch.Tensor]]]:
        for update in updates:
            add_scores(scores, update)
            yield update.examples, unpack(update.payload)

    return replace(weighted_sums(weighed()), scores=scores)


def weighted_sums(updates: Iterable[tuple[float, Mapping[str, torch.Tensor]]]) -> Sums:
    """Return the sums of weighted tensors.

    Weights are positive numbers of any scale (D_i).  Raises ValueError for a weight that is not
    positive, and for one name with different shapes.
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
    return Sums(sums, weights, total)


def add_scores(scores: dict[int, tuple[float, float]], update: Update) -> None:
    """Add a client's scores, if it has one for each of its layers, all finite and not negative."""
    measured = update.layer_scores
    usable = len(update.layers) == len(measured) and update.failure is None
    if not usable or not all(np.isfinite(score) and score >= 0 for score in measured):
        return
    for layer, score in zip(update.layers, measured, strict=True):
        weighted, weight = scores.get(layer, (0.0, 0.0))
        scores[layer] = weighted + update.examples * score, weight + update.examples
