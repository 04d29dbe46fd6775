"""The job that a client of any method would get, from a model that need not have values.

    job = planned_job(model, "generation", "fedlora", choice, training, store)

Methods write it as in a run; what they need of a run (clients, seeds) makes no difference here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leff.capacity.footprint import Choice, shell_bits
from leff.methods.fedavg import FedAvg
from leff.methods.fedbitfit import FedBitFit
from leff.methods.fedlora import FedLora
from leff.methods.flexlora import FlexLora
from leff.methods.flora import FLora
from leff.methods.jobs import JobWriter
from leff.methods.method import Method, RoundContext
from leff.methods.slora import SLora
from leff.methods.stand_ins.stand_in import Context, Span
from leff.methods.whole import WholeModel
from leff.models import blocks
from leff.models.quantised import quantised
from leff.wire.messages import Capacity, Job, LocalTraining, Segment

ALPHA = 16.0  # scales adapters, whose bytes do not depend on it
SPARSE_ROUNDS = 1  # slora: round 0 is stage one


@dataclass(frozen=True)
class Written:
    """What a job is written from."""

    model: Any
    writer: JobWriter
    choice: Choice

    @property
    def base(self) -> WholeModel:
        """The frozen model beside adapters, in the choice's bits."""
        bits = self.choice.base_bits
        return WholeModel(replace(self.writer, shell_bits=shell_bits(bits)), bits)

    @property
    def plain(self) -> WholeModel:
        return WholeModel(self.writer)


MADE: Mapping[str, Callable[[Written], Method]] = {
    "fedavg": lambda w: FedAvg(w.writer),
    "fedbitfit": lambda w: FedBitFit(w.plain, w.model),
    "fedlora": lambda w: FedLora(w.base, w.model, w.choice.rank, ALPHA, 0),
    "slora": lambda w: SLora(w.plain, w.model, w.choice.rank, ALPHA, SPARSE_ROUNDS, 0),
    "flora": lambda w: FLora(w.plain, w.model, [w.choice.rank], ALPHA, 0),
    "flexlora": lambda w: FlexLora(w.base, w.model, [w.choice.rank], ALPHA, 0),
}


def planned_job(
    model: nn.Module,
    kind: str,
    method: str,
    choice: Choice,
    training: LocalTraining,
    store: Any,
    layers: tuple[Segment, ...] = (),
) -> Job:
    """Return a client's job in the first round, its parts put into `store`.

    `layers` are for leff: the segments of the client's model, without parts (`layout`).
    """
    written = Written(model, JobWriter(store, kind, pad_id=0), choice)
    context = RoundContext(0, 0, training)
    if method == "leff":
        writer = replace(written.writer, shell_bits=choice.embedding_bits)
        segments = tuple(_with_parts(model, writer, segment) for segment in layers)
        return writer.jobs(writer.frame(model), context, {0: segments})[0]
    made = MADE[method](written)
    made.begin(model)
    return made.plan(model, context, [Capacity(0, len(blocks(model)), 1)]).jobs[0]


def layout(context: Context, block: range, layers: int) -> tuple[Segment, ...]:
    """Return a block among its stand-ins, in a model of so many layers; the parts are left out."""
    pieces = {Span(block.start, block.stop, len(block)): Segment(tuple(block), (), trains=True)}
    for span in context.spans(block, layers):
        pieces[span] = Segment(span.sources, (), bits=span.bits)
    return tuple(pieces[span] for span in sorted(pieces))


def _with_parts(model: Any, writer: JobWriter, segment: Segment) -> Segment:
    """Return the segment with its parts; for stand-ins the layers stand that they answer to."""
    if segment.trains:
        return writer.block(model, segment.sources)
    layers = (blocks(model)[source] for source in segment.sources)
    parts = tuple(writer.store.put(quantised(layer, segment.bits)) for layer in layers)
    return replace(segment, parts=parts)
