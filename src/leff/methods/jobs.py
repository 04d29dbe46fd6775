"""Writes jobs, which say what a client gets and trains, from the server's model.

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
from leff.methods.setup import Layout, shell_bits
from leff.models import blocks, config_to_json, half_words, layer_state, shell_state, tail_state
from leff.models.quantised import quantised
from leff.seeds import derive_seed
from leff.wire.messages import Job, LocalTraining, MeasureJob, Part, Segment, Tuned, Upload


class Store(Protocol):
    """Keeps parts: `wire.parts.PartStore`, or a replacement that keeps only shapes."""

    def put(self, tensors: Mapping[str, torch.Tensor]) -> Part:
        """Keep the tensors, and return their part."""
        ...


@dataclass(frozen=True)
class Frame:
    """A client's model without its layers: `config` is JSON, shell and tail are stored parts."""

    config: str
    shell: Part
    tail: Part


@dataclass(frozen=True)
class JobWriter:
    """Writes jobs for one task and puts their parts into a store.

    With 16 `shell_bits` the frozen word embeddings are sent, kept and read as float16.  `upload` is
    the form in which trained tensors come back, and `private` says that nothing else does.  `clip`
    and `noise` are for noise that clients add, and `held` for secure sums.
    """

    store: Store
    kind: str
    pad_id: int
    shell_bits: int = 32
    upload: Upload = "full"
    private: bool = False
    clip: float = 0.0
    noise: float = 0.0
    held: bool = False

    def block(self, model: nn.Module, layers: Sequence[int]) -> Segment:
        """Return these layers of the full model as a segment that trains."""
        parts = tuple(self.store.put(layer_state(model, layer)) for layer in layers)
        return Segment(tuple(layers), parts, trains=True)

    def segment(self, model: Any, segment: Segment) -> Segment:
        """Return a layout's segment with its parts.

        A stand-in's layers are replaced by the model's layers that they stand for.
        """
        if segment.trains:
            return self.block(model, segment.sources)
        layers = (blocks(model)[source] for source in segment.sources)
        parts = tuple(self.store.put(quantised(layer, segment.bits)) for layer in layers)
        return replace(segment, parts=parts)

    def frame(self, model: Any) -> Frame:
        """Store the shell and the tail of `model`, and return the frame."""
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
        """Return a job for each client in `segments`, in the order of ids."""
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
                upload=self.upload,
                private=self.private,
                clip=self.clip,
                noise=self.noise,
                held=self.held,
            )
            for client in sorted(segments)
        )


def measure_jobs(
    writer: JobWriter,
    model: Any,
    round: int,
    clients: Sequence[int],
    bits: int,
    batch_size: int,
    probe: int = 0,
    seed: int = 0,
) -> tuple[MeasureJob, ...]:
    """Return a job for each client to measure the whole model, with linear weights in `bits`.

    With `probe` they are probes, and `seed` is the run's.

    Layers in 8 bits are the same parts as LEFF's stand-ins in 8 bits, so a client that measured
    the model holds these already.  ModelError as `quantised`.
    """
    frame = replace(writer, shell_bits=shell_bits(bits)).frame(model)
    parts = tuple(writer.store.put(quantised(layer, bits)) for layer in blocks(model))
    segments = (Segment(tuple(range(len(parts))), parts, bits=bits),)
    return tuple(
        MeasureJob(
            round=round,
            client=client,
            kind=writer.kind,
            config=frame.config,
            pad_id=writer.pad_id,
            shell=frame.shell,
            tail=frame.tail,
            segments=segments,
            batch_size=batch_size,
            probe=probe,
            seed=derive_seed(seed, "probe", round, client) if probe else 0,
        )
        for client in clients
    )


def layout_job(writer: JobWriter, model: Any, layout: Layout, training: LocalTraining) -> Job:
    """Return client 0's job of this layout in the first round; `tuned` values are zeros.

    It is for rehearsals and calibration: only bytes and operations matter, not values.
    """
    tuned: dict[int, Tuned] = {}
    if layout.tuned is not None:
        values = {name: torch.zeros(shape) for name, shape in layout.tuned}
        tuned[0] = Tuned(dict(layout.tuned), writer.store.put(values))
    segments = tuple(writer.segment(model, segment) for segment in layout.segments)
    context = RoundContext(0, 0, training)
    return writer.jobs(writer.frame(model), context, {0: segments}, tuned)[0]
