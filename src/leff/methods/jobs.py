"""Writing jobs: what a client gets, from the model that the server has.

writer = JobWriter(store, "generation", pad_id=0)
jobs = writer.jobs(writer.frame(model), context, {client: segments})
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn

from leff.methods.method import RoundContext
from leff.methods.setup import Layout
from leff.models import blocks, config_to_json, half_words, layer_state, shell_state, tail_state
from leff.models.quantised import quantised
from leff.seeds import derive_seed
from leff.wire.messages import Job, LocalTraining, Part, Segment, Tuned


class Store(Protocol):
    """Where parts are put: `wire.parts.PartStore`, or a stand-in for it that keeps shapes alone."""

    def put(self, tensors: Mapping[str, torch.Tensor]) -> Part:
        """Keep tensors, and return the part that they are."""
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

    store: Store
    kind: str
    pad_id: int
    shell_bits: int = 32

    def block(self, model: nn.Module, layers: Sequence[int]) -> Segment:
        """Return these layers of the full model as a segment that trains."""
        parts = tuple(self.store.put(layer_state(model, layer)) for layer in layers)
        return Segment(tuple(layers), parts, trains=True)

    def segment(self, model: Any, segment: Segment) -> Segment:
        """Return a layout's segment with its parts.

        In place of a stand-in's layers stand those of the model that they answer to.
        """
        if segment.trains:
            return self.block(model, segment.sources)
        layers = (blocks(model)[source] for source in segment.sources)
        parts = tuple(self.store.put(quantised(layer, segment.bits)) for layer in layers)
        return replace(segment, parts=parts)

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


def layout_job(writer: JobWriter, model: Any, layout: Layout, training: LocalTraining) -> Job:
    """Return a job of this layout, as client 0 has in the first round; what trains has no values.

    For rehearsals and calibration: bytes and operations are those of any other job like it.
    """
    tuned: dict[int, Tuned] = {}
    if layout.tuned is not None:
        values = {name: torch.zeros(shape) for name, shape in layout.tuned}
        tuned[0] = Tuned(dict(layout.tuned), writer.store.put(values))
    segments = tuple(writer.segment(model, segment) for segment in layout.segments)
    context = RoundContext(0, 0, training)
    return writer.jobs(writer.frame(model), context, {0: segments}, tuned)[0]
