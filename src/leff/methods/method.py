"""The seam between the round and what a method sends, trains and merges.

plan = method.plan(model, RoundContext(0, seed, training), reports)
method.merge(model, updates)
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from leff.wire.messages import Capacity, Job, LocalTraining, Update


@dataclass(frozen=True)
class RoundContext:
    """What is fixed for one round: its index from 0, the run's seed, the local settings.

    `decided` is where what a clock decides is written down: a round that is run again is given
    it, and does the same.
    """

    index: int
    seed: int
    training: LocalTraining
    decided: MutableMapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A round's jobs, and what there is to record of how they came about."""

    jobs: tuple[Job, ...]
    facts: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """What is sent, what trains, how it is merged."""

    name: str

    def begin(self, model: nn.Module) -> None:
        """Take in the model that the run starts with; before any round, and when it is resumed."""
        ...

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        """Return a job for every report; the model stays as it is."""
        ...

    def merge(self, model: nn.Module, updates: Iterable[Update]) -> None:
        """Put the updates, which come in the order of client ids, into the model."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs beside the model."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...
