"""The seam between the round and what a method sends, trains and merges.

plan = method.plan(model, RoundContext(0, seed, training), reports)
method.merge(model, updates)
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn

from leff.families import config_to_json, half_words, layer_state, shell_state, tail_state
from leff.parts import PartStore
from leff.seeds import derive_seed
from leff.types import Capacity, Job, LocalTraining, Part, Segment, Tuned, Update


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


@dataclass(frozen=True)
class Frame:
    """What is around the layers of a client's model: `config` is JSON, the rest is in the store."""

    config: str
    shell: Part
    tail: Part


@dataclass(frozen=True)
class JobWriter:
    """Writes jobs for one task: what is the same in all of them, and where parts are put.

    With 16 `shell_bits` the frozen word embeddings are sent, kept and read as float16.
    """

    store: PartStore
    kind: str
    pad_id: int
    shell_bits: int = 32

    def block(self, model: nn.Module, layers: Sequence[int]) -> Segment:
        """Return these layers of the full model as a segment that trains."""
        parts = tuple(self.store.put(layer_state(model, layer)) for layer in layers)
        return Segment(tuple(layers), parts, trains=True)

    def frame(self, model: Any) -> Frame:
        """Store what is around the layers of `model`, and return where."""
        shell, tail = shell_state(model), self.store.put(tail_state(model))
        shell = self.store.put(half_words(model, shell) if self.shell_bits == 16 else shell)
        return Frame(config_to_json(model.config), shell, tail)

    def jobs(
        self,
        frame: Frame,
        context: RoundContext,
        segments: Mapping[int, tuple[Segment, ...]],
        tuned: Mapping[int, Tuned] = MappingProxyType({}),
    ) -> tuple[Job, ...]:
        """Return a job per client, from the segments that its model has."""
        return tuple(
            Job(
                round=context.index,
                client=client,
                seed=derive_seed(context.seed, "client", context.index, client),
                kind=self.kind,
                config=frame.config,
                pad_id=self.pad_id,
                shell=frame.shell,
                tail=frame.tail,
                segments=segments[client],
                training=context.training,
                tuned=tuned.get(client),
            )
            for client in sorted(segments)
        )
