"""The sum of clipped updates with Gaussian noise, as means: what a client adds is bounded.

    means = noisy_means(opened, spool.files(), Mechanism(clip=1.0, noise=1.1, clients=40), draw)
    method.merge(model, means)

    mean_l = start_l + (Σ_i Δ_i · min(1, C / ‖Δ_i‖) + N(0, (z · C)²)) / (n · π_l)

Δ_i is what training changed in all tensors of client i together, C the clip, and z the noise.  n is
the number of clients that a round expects, and π_l the share of them that it expects to train the
tensor (`Opened`).  Neither depends on who took part.  So a client that is not there, or fails,
changes the sum by C at most and nothing else (McMahan et al. 2018).  All clients count the same.
Every tensor that the round could have changed gets the same noise, however few trained it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from leff.methods.method import Opened
from leff.methods.sums import Mean
from leff.privacy.clipping import clip_factor
from leff.wire.messages import Update
from leff.wire.tensors import one_by_one, shapes_of

Draw = Callable[[int, str], np.ndarray]  # count, label -> numbers of mean 0 and deviation 1


@dataclass(frozen=True)
class Mechanism:
    """The clip C, the noise's deviation in units of it, and the number of clients expected."""

    clip: float
    noise: float  # z
    clients: float  # n

    @property
    def deviation(self) -> float:
        """The noise's deviation in each value of the sum."""
        return self.noise * self.clip


@dataclass(frozen=True)
class Clipped:
    """A client's tensors, in a file, and the factor that clips what training changed in them."""

    file: Path
    names: Collection[str]
    factor: float


@dataclass(frozen=True)
class NoisyMeans:
    """`sums.Means` with noise."""

    opened: Opened
    total: Callable[[str], torch.Tensor]  # Σ_i of a tensor's clipped differences, float64
    mechanism: Mechanism
    draw: Draw
    scores: Mapping[int, float] = field(default_factory=dict[int, float])  # nobody sends any
    too_few: Mapping[str, int] = field(default_factory=dict[str, int])  # noise hides how few

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(own.shape) for name, own in self.opened.values.items()}

    def mean(self, name: str) -> Mean:
        start = _wide(self.opened.values[name])
        noise = torch.from_numpy(self.draw(start.numel(), name)).view(start.shape)  # pyright: ignore[reportUnknownMemberType]
        total = self.total(name) + noise * self.mechanism.deviation
        share = self.opened.shares[name]
        return Mean(start + total / (self.mechanism.clients * share), share)

    def means(self) -> Iterator[tuple[str, Mean]]:
        return ((name, self.mean(name)) for name in self.opened.values)


def noisy_means(
    opened: Opened, updates: Sequence[tuple[Update, Path]], mechanism: Mechanism, draw: Draw
) -> NoisyMeans:
    """Return the means of updates, whose tensors are in files, of all that a round could change.

    Each update has the `norm` of its difference.  Raises ValueError for an update with a tensor
    that the round did not open.
    """
    clipped: list[Clipped] = []
    for update, file in updates:
        names = shapes_of(file).keys()
        if update.norm is None or not names <= opened.values.keys():
            foreign = sorted(names - opened.values.keys())
            raise ValueError(
                f"client {update.client} sent {foreign}, and its norm is {update.norm}"
            )
        clipped.append(Clipped(file, names, clip_factor(update.norm, mechanism.clip)))

    def total(name: str) -> torch.Tensor:
        start = _wide(opened.values[name])
        found = torch.zeros_like(start)
        for own in clipped:
            if name in own.names:
                found += (one_by_one(own.file)(name).to(torch.float64) - start) * own.factor
        return found

    return NoisyMeans(opened, total, mechanism, draw)


@dataclass(frozen=True)
class SumMeans:
    """`sums.Means` of sums alone: each tensor's `totals`, of so many `clients` of all `present`."""

    opened: Opened
    totals: Mapping[str, torch.Tensor]
    clients: Mapping[str, int]
    present: int
    scores: Mapping[int, float] = field(default_factory=dict[int, float])
    too_few: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(total.shape) for name, total in self.totals.items()}

    def mean(self, name: str) -> Mean:
        count = self.clients[name]
        start = _wide(self.opened.values[name])
        return Mean(start + self.totals[name] / count, count / self.present)

    def means(self) -> Iterator[tuple[str, Mean]]:
        return ((name, self.mean(name)) for name in self.totals)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", torch.float64)
