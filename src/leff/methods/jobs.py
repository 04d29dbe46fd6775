"""Writing jobs: what a client gets, from the model that the server has.

writer = JobWriter(store, "generation", pad_id=0)
jobs = writer.jobs(writer.frame(model), context, {client: segments})
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import nn

from leff.methods.method import RoundContext
from leff.models import config_to_json, half_words, layer_state, shell_state, tail_state
from leff.seeds import derive_seed
from leff.wire.messages import Job, Part, Segment, Tuned
from leff.wire.parts import PartStore


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
