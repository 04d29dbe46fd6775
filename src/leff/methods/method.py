"""The seam between the round and a method: a method says what is sent, trained and merged.

    plan = method.plan(model, RoundContext(0, seed, training), reports)
    method.merge(model, add_up(updates))

Most methods merge means over clients and need no single update.  FLoRA and FlexLoRA need single
updates, so they are a `SingleUpdateMethod`.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from leff.methods.guard import NO_GUARD, Guard, weighed
from leff.methods.robust import robust_means
from leff.methods.sums import Means, add_up
from leff.wire.messages import Capacity, Job, LocalTraining, Update
from leff.wire.spool import Spool


@dataclass(frozen=True)
class RoundContext:
    """The fixed facts of one round: its index from 0, the run's seed, the local settings.

    `decided` records decisions that depend on a clock.  A repeated round gets it and decides the
    same.
    """

    index: int
    seed: int
    training: LocalTraining
    decided: MutableMapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Plan:
    """A round's jobs, and facts about the plan for the round's record, as JSON values."""

    jobs: tuple[Job, ...]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Opened:
    """All that a round may change: each tensor's value at its start, and its expected clients.

    `shares` is, for each tensor, the share of a round's clients that train it, in (0, 1].  It does
    not depend on who takes part.
    """

    values: Mapping[str, torch.Tensor]
    shares: Mapping[str, float]

    @classmethod
    def by_all(cls, values: Mapping[str, torch.Tensor]) -> "Opened":
        """Return tensors that every client trains."""
        return cls(values, dict.fromkeys(values, 1.0))


class Planner(Protocol):
    """The part that all methods share, however they merge."""

    name: str

    def begin(self, model: nn.Module) -> None:
        """Take in the run's initial model, before the first round and when a run is resumed."""
        ...

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        """Return a job for each client that can train; the model is not changed."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a resumed run needs beside the model."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...


class MeanMethod(Planner, Protocol):
    """A method that merges means over clients."""

    def opened(self, model: nn.Module, context: RoundContext) -> Opened:
        """Return what the round may change, whoever takes part; the model is not changed."""
        ...

    def merge(self, model: nn.Module, means: Means) -> None:
        """Put the round's means into the model, in place."""
        ...


@runtime_checkable
class SingleUpdateMethod(Planner, Protocol):
    """A method that needs each client's single update."""

    def merge_updates(self, model: nn.Module, updates: Iterable[Update]) -> None:
        """Put the updates into the model, in place.  They come in the order of client ids."""
        ...


Method = MeanMethod | SingleUpdateMethod


def merge_round(
    method: Method, model: nn.Module, spool: Spool, guard: Guard = NO_GUARD
) -> Mapping[str, int]:
    """Merge a round's updates, in the order of client ids, as means or as single updates.

    Return the layers that too few clients trained, as `Means.too_few`.  Raises ValueError for a
    robust merge by a method that needs single updates.
    """
    if isinstance(method, SingleUpdateMethod):
        if guard.merge != "mean":
            raise ValueError(f"{method.name} needs single updates; merge must be mean")
        method.merge_updates(model, weighed(spool, guard))
        return {}
    if guard.merge == "mean":
        means = add_up(weighed(spool, guard))
    else:
        means = robust_means(spool.files(), guard.cut)
    method.merge(model, means)
    return means.too_few
