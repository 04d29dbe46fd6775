"""What a round's clients came to, tensor by tensor.  Most methods need nothing else to merge.

    means = add_up(updates)             # in the order of client ids
    means.mean("transformer.h.0.attn.c_attn.weight")

`Means` is what a merge reads.  `WeighedMeans` and `Sums` are weighted by the clients' examples;
`leff.methods.robust` has those that a few hostile clients cannot move far.

Every tensor has its own sum, so clients may send different layers.  Sums are float64 and are added
in the order given.  Callers give the order of client ids, so the order of arrival does not matter.
The mean of identical tensors equals them to the bit.  `WeighedMeans` read the updates' files when a
mean is asked for: one tensor's sum is in memory, and one client's tensor beside it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from leff.wire.messages import Update
from leff.wire.tensors import Payload, one_by_one, shapes_of

Scores = dict[int, list[tuple[float, int]]]  # layer -> (I_l, D_i) of each client that measured it


@dataclass(frozen=True)
class Mean:
    """The mean of one tensor, in float64, and its clients' share of all clients' weight."""

    tensor: torch.Tensor
    share: float  # in (0, 1]


class Means(Protocol):
    """The means over clients: each tensor's mean is of the clients that trained the tensor."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor that has a mean, by name; empty without updates."""
        ...

    @property
    def scores(self) -> Mapping[int, float]:
        """The importance I_l that clients measured, by layer."""
        ...

    @property
    def too_few(self) -> Mapping[str, int]:
        """How many clients trained a layer, or the tail, that has no mean for that reason."""
        ...

    def mean(self, name: str) -> Mean:
        """Return the mean of one tensor."""
        ...

    def means(self) -> Iterator[tuple[str, Mean]]:
        """Yield every tensor's name and mean, with one mean in memory at a time."""
        ...


@dataclass(frozen=True)
class WeighedMeans:
    """Means weighted by D_i, of payloads that hold a tensor, by its name, each with its D_i."""

    payloads: Mapping[str, Sequence[tuple[float, Payload]]]
    shapes: Mapping[str, tuple[int, ...]]
    total: float  # Σ D_i of all clients
    scores: Mapping[int, float]
    too_few: Mapping[str, int] = field(default_factory=dict[str, int])  # one client is enough

    def mean(self, name: str) -> Mean:
        parts = ((weight, {name: one_by_one(own)(name)}) for weight, own in self.payloads[name])
        sums = weighted_sums(parts)
        return replace(sums.mean(name), share=sums.total / self.total)

    def means(self) -> Iterator[tuple[str, Mean]]:
        return ((name, self.mean(name)) for name in self.payloads)


@dataclass(frozen=True)
class Sums:
    """Means weighted by D_i, as sums.

    `tensors` has Σ D_i · Θ_i in float64, and `weights` has Σ D_i of the same clients, by name.
    `total` is Σ D_i of all clients.
    """

    tensors: Mapping[str, torch.Tensor]
    weights: Mapping[str, float]
    total: float
    scores: Mapping[int, float] = field(default_factory=dict[int, float])
    too_few: Mapping[str, int] = field(default_factory=dict[str, int])  # one client is enough

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def mean(self, name: str) -> Mean:
        return Mean(self.tensors[name] / self.weights[name], self.weights[name] / self.total)

    def means(self) -> Iterator[tuple[str, Mean]]:
        return ((name, self.mean(name)) for name in self.tensors)


def add_up(updates: Iterable[Update]) -> WeighedMeans:
    """Return the means of a round's updates; empty without updates.

    Raises ValueError like `weighted_sums`.
    """
    measured: Scores = {}
    payloads: dict[str, list[tuple[float, Payload]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0.0
    for update in updates:
        _check_weight(update.examples)
        total += update.examples
        add_scores(measured, update)
        for name, shape in shapes_of(update.payload).items():
            _check_shape(name, shape, shapes.setdefault(name, shape))
            payloads.setdefault(name, []).append((update.examples, update.payload))
    return WeighedMeans(payloads, shapes, total, mean_scores(measured))


def weighted_sums(updates: Iterable[tuple[float, Mapping[str, torch.Tensor]]]) -> Sums:
    """Return the sums of weighted tensors.

    Weights are positive numbers of any scale (D_i).  Raises ValueError for a weight that is not
    positive, and for one name with different shapes.
    """
    sums: dict[str, torch.Tensor] = {}
    weights: dict[str, float] = {}
    total = 0.0
    for weight, tensors in updates:
        _check_weight(weight)
        total += weight
        for name, tensor in tensors.items():
            term = tensor.to(torch.float64) * weight
            if name in sums:
                _check_shape(name, tuple(term.shape), tuple(sums[name].shape))
                sums[name] += term
            else:
                sums[name] = term
            weights[name] = weights.get(name, 0.0) + weight
    return Sums(sums, weights, total)


def _check_weight(weight: float) -> None:
    if not weight > 0:
        raise ValueError(f"the weight of an update must be above 0, got {weight}")


def _check_shape(name: str, shape: tuple[int, ...], before: tuple[int, ...]) -> None:
    if shape != before:
        raise ValueError(f"{name} is {shape} in one update, {before} in those before")


def add_scores(scores: Scores, update: Update) -> None:
    """Add a client's scores, if it has one for each of its layers, all finite and not negative."""
    measured = update.layer_scores
    usable = len(update.layers) == len(measured) and update.failure is None
    if not usable or not all(np.isfinite(score) and score >= 0 for score in measured):
        return
    for layer, score in zip(update.layers, measured, strict=True):
        scores.setdefault(layer, []).append((score, update.examples))


def mean_scores(scores: Scores) -> dict[int, float]:
    """Return the mean score of each layer, weighted by D_i."""
    return {
        layer: sum(n * score for score, n in own) / sum(n for _, n in own)
        for layer, own in scores.items()
    }
