"""Means that a few hostile clients cannot move far: the trimmed mean and the median.

    means = robust_means(spool.files(), guard.cut)
    means.mean("transformer.h.0.attn.c_attn.weight")

Of the n values of a coordinate, the `cut` smallest and the `cut` largest are left out, and the rest
are averaged.  The median cuts all but the one or two in the middle.  As long as at most `cut` of
the n clients are hostile, the result lies between values that honest clients sent.  Source: Yin et
al., "Byzantine-robust distributed learning", ICML 2018.

All clients count the same.  A client names its number of examples itself, so as a weight it would
give a hostile client the majority.

A tensor's n are the clients that trained it, so in LEFF they differ by layer.  A tensor with fewer
than 2 · cut + 1 of them has no mean, and keeps its value.

One tensor's mean is in memory, and beside it the values that all clients have in some rows.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from leff.methods.sums import Mean, Scores, add_scores
from leff.wire.messages import Update
from leff.wire.tensors import read_rows, shapes_of

STACK_BYTES = 2**25  # of all clients' values in some rows

Cut = Callable[[int], int]  # number of clients -> how many of their values are cut at each end


@dataclass(frozen=True)
class RobustMeans:
    """`sums.Means` by cutting; `files` are the updates that hold a tensor, by its name."""

    files: Mapping[str, Sequence[Path]]
    shapes: Mapping[str, tuple[int, ...]]
    cut: Cut
    clients: int  # of the round
    scores: Mapping[int, float]
    too_few: Mapping[str, int]

    def mean(self, name: str) -> Mean:
        files, shape = self.files[name], self.shapes[name]
        mean = torch.empty(shape, dtype=torch.float64)
        rows = mean.view(shape[0] if shape else 1, -1)
        step = max(1, STACK_BYTES // (4 * len(files) * rows.shape[1]))
        for first in range(0, len(rows), step):
            piece = rows[first : first + step]
            stack = [read_rows(file, name, first, first + step).view(-1) for file in files]
            piece.copy_(cut_mean(torch.stack(stack, -1), self.cut(len(files))).view_as(piece))
        return Mean(mean, len(files) / self.clients)

    def means(self) -> Iterator[tuple[str, Mean]]:
        return ((name, self.mean(name)) for name in self.files)


def robust_means(updates: Sequence[tuple[Update, Path]], cut: Cut) -> RobustMeans:
    """Return the robust means of updates, whose tensors are in files.

    Raises ValueError for one name with different shapes.
    """
    files: dict[str, list[Path]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    trained, measured = {"tail": len(updates)}, Scores()
    for update, file in updates:
        add_scores(measured, update)
        for layer in map(str, update.layers):
            trained[layer] = trained.get(layer, 0) + 1
        for name, shape in shapes_of(file).items():
            if shapes.setdefault(name, shape) != shape:
                raise ValueError(f"{name} is {shape} in one update, {shapes[name]} in those before")
            files.setdefault(name, []).append(file)

    def enough(count: int) -> bool:
        return count > 2 * cut(count)

    merged = {name: own for name, own in files.items() if enough(len(own))}
    return RobustMeans(
        files=merged,
        shapes={name: shapes[name] for name in merged},
        cut=cut,
        clients=len(updates),
        scores=median_scores({k: own for k, own in measured.items() if enough(len(own))}),
        too_few={part: count for part, count in trained.items() if not enough(count)},
    )


def cut_mean(values: torch.Tensor, cut: int) -> torch.Tensor:
    """Return the mean over the last axis of `values` (m, n), without `cut` at each end, in float64.

    Raises ValueError if nothing would be left.
    """
    count = values.shape[-1]
    if count <= 2 * cut:
        raise ValueError(f"of {count} values, {cut} cannot be cut at each end")
    ordered = np.sort(values.numpy(), axis=-1)[:, cut : count - cut].astype(np.float64)
    mean = ordered[:, 0].copy()
    for column in range(1, ordered.shape[1]):  # a sum that starts at 0 would lose the sign of -0.0
        mean += ordered[:, column]
    return torch.as_tensor(mean / ordered.shape[1])


def median_scores(scores: Scores) -> dict[int, float]:
    """Return the median score of each layer."""
    return {layer: float(np.median([score for score, _ in own])) for layer, own in scores.items()}
