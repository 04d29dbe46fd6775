"""How far one client may move the model: the bound of its update, its weight, and the merge.

    guard = Guard(clip_norm=5.0, merge="median")
    update = clipped(update, start, guard.clip_norm)     # as it arrives; start: tensors by name
    merge_round(method, model, spool, guard)

The server cannot see whether a client is honest.  It can bound what any one client does.
"""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from leff.wire.headers import header
from leff.wire.messages import Update
from leff.wire.spool import Spool
from leff.wire.tensors import one_by_one

STEP_SCALE = 2**16  # whole weights are exact in the sums; this is their resolution
PIECE = 2**22  # values that are in memory as float64 at a time

Weights = Literal["examples", "steps", "equal"]
MergeRule = Literal["mean", "trimmed_mean", "median"]


@dataclass(frozen=True)
class Guard:
    """What one client counts in a merge, and its bounds.  The defaults bound nothing.

    `weights` is what it counts if the merge is the mean: D_i; D_i over the steps that its job asks
    for, so that a client that does more of them does not count twice (FedNova, Wang et al. 2020);
    or 1.  A client's own word on its steps does not count.
    """

    clip_norm: float = 0.0  # of what training changed; 0: none
    merge: MergeRule = "mean"
    trim: float = 0.25  # for trimmed_mean: share of the clients that is cut at each end
    weights: Weights = "examples"
    most_weight: float = 1.0  # for mean: share of the round's weight that one client may have

    def cut(self, clients: int) -> int:
        """Return how many of `clients` values a robust merge cuts at each end, at least 1."""
        if self.merge == "median":
            return max(1, (clients - 1) // 2)
        return max(1, math.ceil(self.trim * clients - 1e-9))  # 0.07 · 100 is just above 7


NO_GUARD = Guard()


def clipped(
    update: Update,
    start: Mapping[str, torch.Tensor],
    most: float,
    path: Path,
    prefixes: Sequence[str] = (),
) -> Update:
    """Return an update with the norm of its difference, scaled down to `most` if it is above.

    It has the norm of each layer's part too; `prefixes` are what the names of a layer's tensors
    have in common, for each of the update's layers.  None of these norms is of what was scaled.

    The difference is between the update's tensors and what the client started with, `start`.  Its
    norm is the L2 norm over all tensors together (Sun et al., "Can you really backdoor federated
    learning?", 2019).  With `most` = 0 it is only measured.  What is scaled is written to `path`;
    one tensor is in memory at a time, if the payload is a file.
    """
    read, names = one_by_one(update.payload), sorted(start)
    squares = {name: _square(read(name), start[name]) for name in names}
    norm = math.sqrt(math.fsum(squares.values()))
    parts = ([own for name, own in squares.items() if prefix in name] for prefix in prefixes)
    update = replace(update, norm=norm, norms=tuple(math.sqrt(math.fsum(own)) for own in parts))
    if not most or norm <= most:
        return update
    with path.open("wb") as file:
        file.write(header({name: start[name].shape for name in names}))
        for name in names:
            tensor = read(name).clone()
            for own, first in _pieces(tensor, start[name]):
                own.copy_(first + (own.double() - first) * (most / norm))
            file.write(tensor.contiguous().numpy().tobytes())
    return replace(update, payload=path, clipped=True)


def _square(tensor: torch.Tensor, start: torch.Tensor) -> float:
    return math.fsum(
        float((own.double() - first).square().sum()) for own, first in _pieces(tensor, start)
    )


def _pieces(
    tensor: torch.Tensor, start: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield views of a tensor, (n,) each, and the same places of `start` in float64."""
    own, first = tensor.view(-1), start.detach().reshape(-1)
    for place in range(0, own.numel(), PIECE):
        piece = slice(place, place + PIECE)
        yield own[piece], first[piece].to(own.device, torch.float64)


def weighed(spool: Spool, guard: Guard) -> Iterator[Update]:
    """Yield the accepted updates, with their whole weight in the merge in the place of D_i.

    It is as `Guard.weights` says, and lowered as `most_examples` says.
    """
    accepted = (update for update in spool.updates.values() if update.failure is None)
    weights = [_weight(update, guard.weights) for update in accepted]
    most = most_examples(weights, guard.most_weight)
    for update in spool.accepted():
        yield replace(update, examples=min(_weight(update, guard.weights), most))


def _weight(update: Update, weights: Weights) -> int:
    if weights == "equal":
        return 1
    if weights == "steps":
        return max(1, round(STEP_SCALE * update.examples / max(1, update.asked_steps)))
    return update.examples


def most_examples(examples: Sequence[int], most_weight: float) -> int:
    """Return the c that D_i is lowered to, so that no client has more than its share of the weight.

    It is the largest whole c with c / Σ min(D_i, c) ≤ `most_weight`.  If the clients are too few
    for any, it is 1, and all weigh the same.
    """

    def share(most: int) -> float:  # it does not fall as `most` grows
        return most / sum(min(own, most) for own in examples)

    counts = range(1, max(examples, default=0) + 1)
    return max(1, bisect_right(counts, most_weight, key=share))
