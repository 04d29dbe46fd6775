"""What one client is asked to do, and what its model is made of, without any weights.

    setup = ClientSetup(layers=2, context=make_context("quantise", bits=8), step=Step(batch_size=8))
    block_layout(setup.context, range(3, 5), layers=8)

A `ClientSetup` is asked for; a `Layout` follows from it, the method and the place of the block.
Plans, predicted peaks and rehearsals are all made from layouts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from leff.methods.stand_ins.stand_in import EXACT, Context, Span
from leff.wire.messages import Job, Segment, Step

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ClientSetup:
    """The block's layers, what is around it, the adapters, and a step's batch."""

    layers: int = 1  # L_i; for leff
    context: Context = EXACT  # for leff
    rank: int = 8  # R; for the methods with adapters, Table 5
    base_bits: int = 32  # of the linear weights beside adapters: 32, 16, 8 or 4
    clients: int = 8  # in a round; for flora, whose clients get all adapters
    embedding_bits: int = 32  # of the frozen word matrix: 32 or 16
    step: Step = field(default_factory=Step)
    length: int = 128  # tokens of a text
    labelled: float = 1.0  # share of a text's tokens that have a label


@dataclass(frozen=True)
class Layout:
    """A client's model: segments without parts, bits of its words, and what trains beside them.

    `tuned` has name and shape of everything that trains in a model that is otherwise frozen (see
    `messages.Tuned`).  Without it the segments that say so train, and the tail.
    """

    segments: tuple[Segment, ...]
    shell_bits: int = 32
    tuned: tuple[tuple[str, tuple[int, ...]], ...] | None = None

    @property
    def sources(self) -> list[int]:
        """The layer of the full model that each of the client's layers stands for."""
        return [source for segment in self.segments for source in segment.sources]

    @property
    def block(self) -> list[int]:
        """The layers of the full model that train, or that something trains in."""
        tuned = self.tuned is not None
        return [source for s in self.segments if s.trains or tuned for source in s.sources]

    @property
    def trained_places(self) -> set[int]:
        """Where those are in the client's own list of layers."""
        flags = (s.trains or self.tuned is not None for s in self.segments for _ in s.sources)
        return {place for place, trains in enumerate(flags) if trains}


def block_layout(context: Context, block: range, layers: int, shell_bits: int = 32) -> Layout:
    """Return a block among its stand-ins, in a model of so many layers."""
    pieces = {Span(block.start, block.stop, len(block)): Segment(tuple(block), (), trains=True)}
    for span in context.spans(block, layers):
        pieces[span] = Segment(span.sources, (), bits=span.bits)
    return Layout(tuple(pieces[span] for span in sorted(pieces)), shell_bits)


def whole_layout(layers: int, tuned: Shapes, bits: int = 32) -> Layout:
    """Return a whole model, frozen in so many bits, in which `tuned` trains."""
    segment = Segment(tuple(range(layers)), (), bits=bits)
    return Layout((segment,), shell_bits(bits), tuple(tuned.items()))


def job_layout(job: Job, embedding_bits: int) -> Layout:
    """Return the layout of a job as it was written.

    `embedding_bits` is what a job does not say: the bits of the words beside a block.
    """
    segments = tuple(replace(segment, parts=()) for segment in job.segments)
    if job.tuned is None:
        return Layout(segments, embedding_bits)
    return Layout(segments, shell_bits(segments[0].bits), tuple(job.tuned.shapes.items()))


def shell_bits(base_bits: int) -> int:
    """Return the bits of the word embeddings beside linear weights of `base_bits`."""
    return 32 if base_bits == 32 else 16


def places(layers: int, total: int) -> list[range]:
    """Return the blocks of so many layers, from the first to the last."""
    return [range(first, first + layers) for first in range(total - layers + 1)]


def block_layouts(setup: ClientSetup, total: int) -> Sequence[Layout]:
    """Return the layout at every place of the block, in a model of `total` layers."""
    blocks = places(setup.layers, total)
    return [block_layout(setup.context, b, total, setup.embedding_bits) for b in blocks]
