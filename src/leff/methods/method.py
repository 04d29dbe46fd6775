"""The seam between the round and what a method sends, trains and merges.

    plan = method.plan(model, RoundContext(0, seed, training), reports)
    method.merge(model, add_up(updates))

A method merges sums over clients: it never needs a single client's update.  FLoRA and FlexLoRA do,
and say so by being a `SingleUpdateMethod`.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from leff.methods.sums import Sums, add_up
from leff.wire.messages import Capacity, Job, LocalTraining, Update


@dataclass(frozen=True)
class RoundContext:
    """What is fixed for one round: its index from 0, the run's seed, the local settings.

    `decided` is where what a clock decides is written down.  A round that is run again is given
    it, and does the same.
    """

    index: int
    seed: int
    training: LocalTraining
    decided: MutableMapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Plan:
    """A round's jobs, and what there is to record of how they came about, as JSON values."""

    jobs: tuple[Job, ...]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Planner(Protocol):
    """What every method has, however it merges."""

    name: str

    def begin(self, model: nn.Module) -> None:
        """Take in the model that the run starts with.

        It is called before the first round, and when the run is resumed.
        """
        ...

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        """Return a job for every report that can do anything; the model stays as it is."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs beside the model."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...


class SumMethod(Planner, Protocol):
    """A method that merges sums over clients."""

    def merge(self, model: nn.Module, sums: Sums) -> None:
        """Put the round's sums into the model, in place."""
        ...


@runtime_checkable
class SingleUpdateMethod(Planner, Protocol):
    """A method that needs each client's update by itself."""

    def merge_updates(self, model: nn.Module, updates: Iterable[Update]) -> None:
        """Put the updates, which come in the order of client ids, into the model, in place."""
        ...


Method = SumMethod | SingleUpdateMethod


def merge_round(method: Method, model: nn.Module, updates: Iterable[Update]) -> None:
    """Merge a round's updates, which come in the order of client ids, by what the method needs."""
    if isinstance(method, SingleUpdateMethod):
        method.merge_updates(model, updates)
    else:
        method.merge(model, add_up(updates))
