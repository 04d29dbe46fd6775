"""One client's setup and the layout of its model, without any weights.

    setup = ClientSetup(layers=2, context=make_context("quantise", bits=8), step=Step(batch_size=8))
    block_layout(setup.context, range(3, 5), layers=8)

A `ClientSetup` is what a user asks for.  The setup, the method and the place of the block give a
`Layout`.  Plans, predicted peaks and rehearsals are all made from layouts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from leff.methods.stand_ins.stand_in import EXACT, Context, Span
from leff.wire.messages import Job, Segment, Step, Upload

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ClientSetup:
    """The block size, the context around the block, the adapters, and the step."""

    layers: int = 1  # L_i; for leff
    context: Context = EXACT  # for leff
    rank: int = 8  # R, Table 5; for the methods with adapters
    base_bits: int = 32  # bits of the linear weights beside adapters: 32, 16, 8 or 4
    clients: int = 8  # clients in a round; for flora, whose clients get all adapters
    embedding_bits: int = 32  # bits of the frozen word matrix: 32 or 16
    step: Step = field(default_factory=Step)
    length: int = 128  # tokens of a text
    labelled: float = 1.0  # share of a text's tokens that have a label
    upload: Upload = "full"  # form of what comes back


@dataclass(frozen=True)
class Layout:
    """A client's model: segments without parts, the bits of its words, and its tuned tensors.

    `tuned` has the name and shape of each tensor that trains in an otherwise frozen model (see
    `messages.Tuned`).  If it is None, the tail trains, and each segment with `trains`.
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
        """The full model's layers that train or that hold trained tensors."""
        tuned = self.tuned is not None
        return [source for s in self.segments if s.trains or tuned for source in s.sources]

    @property
    def trained_places(self) -> set[int]:
        """The positions of `block` in the client's own list of layers."""
        flags = (s.trains or self.tuned is not None for s in self.segments for _ in s.sources)
        return {place for place, trains in enumerate(flags) if trains}


def block_layout(context: Context, block: range, layers: int, shell_bits: int = 32) -> Layout:
    """Return the layout of a block among its stand-ins, in a model of `layers` layers."""
    pieces = {Span(block.start, block.stop, len(block)): Segment(tuple(block), (), trains=True)}
    for span in context.spans(block, layers):
        pieces[span] = Segment(span.sources, (), bits=span.bits)
    return Layout(tuple(pieces[span] for span in sorted(pieces)), shell_bits)


def whole_layout(layers: int, tuned: Shapes, bits: int = 32) -> Layout:
    """Return the layout of a whole model, frozen in `bits`, in which `tuned` trains."""
    segment = Segment(tuple(range(layers)), (), bits=bits)
    return Layout((segment,), shell_bits(bits), tuple(tuned.items()))


def job_layout(job: Job, embedding_bits: int) -> Layout:
    """Return the layout of a job.

    A job does not say the bits of the words beside a block, so `embedding_bits` gives them.
    """
    segments = tuple(replace(segment, parts=()) for segment in job.segments)
    if job.tuned is None:
        return Layout(segments, embedding_bits)
    return Layout(segments, shell_bits(segments[0].bits), tuple(job.tuned.shapes.items()))


def shell_bits(base_bits: int) -> int:
    """Return the bits of the word embeddings beside linear weights of `base_bits`."""
    return 32 if base_bits == 32 else 16


def places(layers: int, total: int) -> list[range]:
    """Return all blocks of `layers` layers in a model of `total`, from the first to the last."""
    return [range(first, first + layers) for first in range(total - layers + 1)]


def block_layouts(setup: ClientSetup, total: int) -> Sequence[Layout]:
    """Return the layout for each place of the block in a model of `total` layers."""
    blocks = places(setup.layers, total)
    return [block_layout(setup.context, b, total, setup.embedding_bits) for b in blocks]
