"""What stands in for the layers that a client does not train (PAPER Sec. 3.3).

A client that trains layers 3 and 4 of 8 has two spans to replace: 0 to 2 and 5 to 7.

    context = Context(Recipe(0.5, trained=True), Recipe(0.5, trained=True))
    context.spans(block=range(3, 5), layers=8)   # (Span(0, 3, 2, True), Span(5, 8, 1, True))

Every way to replace layers is a `Recipe`: how many are kept, whether they are trained to make up
for the others, and in how many bits they are sent.  Spans are shared by all clients: there are
about 2L of them, whatever N is; and the units that they are made of, fewer still.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How layers are replaced: ⌈n·rate⌉ stay of n, `trained` on the server, sent in `bits`."""

    rate: float = 1.0  # r
    trained: bool = False
    bits: int = 32  # of a linear weight: 32, 16, 8 or 4


@dataclass(frozen=True, order=True)
class Span:
    """Layers start to stop-1 of the full model, to be replaced by `layers` layers."""

    start: int
    stop: int
    layers: int
    trained: bool = False
    bits: int = 32

    @property
    def sources(self) -> tuple[int, ...]:
        """The full model's layer that each stand-in layer answers to, evenly spread.

        The last stand-in layer answers to the last layer of the span, whose output is what the
        rest of the model reads.  Layer j of m in a span of n answers to ⌈(j+1)·n/m⌉ - 1.
        """
        length = self.stop - self.start
        return tuple(
            self.start + math.ceil((j + 1) * length / self.layers) - 1 for j in range(self.layers)
        )

    def units(self, whole: bool = False) -> tuple["Span", ...]:
        """Return the pieces that are made apart, and shared with other spans.

        Each stand-in layer is one: it covers what comes after the layer before's source, up to
        its own.  One that covers a single layer is that layer, untrained.  `whole` keeps a span
        that trains in one piece, its layers trained jointly.
        """
        if whole and self.trained and 0 < self.layers < self.stop - self.start:
            return (self,)
        starts = (self.start, *(source + 1 for source in self.sources))
        return tuple(
            Span(start, source + 1, 1, self.trained and source > start, self.bits)
            for start, source in zip(starts, self.sources, strict=False)
        )


@dataclass(frozen=True)
class StandIn:
    """A span's replacement: tensors of each layer (named as inside one layer), and its error.

    `error` is ‖H_s - H_t‖ / ‖H_t‖ at the span's last layer, both fed the full model's hidden
    states, over the positions of the proxy data that are not padding.
    """

    span: Span
    tensors: tuple[Mapping[str, torch.Tensor], ...]
    error: float


@dataclass(frozen=True)
class Context:
    """What a client has around its block: a recipe for the layers before, one for those after.

    Where they are the same, the budget of ⌈n·r⌉ layers is shared by all n unselected layers (PAPER
    Sec. 3.3); where they differ, each side has its own.
    """

    prefix: Recipe
    suffix: Recipe

    def spans(self, block: Sequence[int], layers: int) -> tuple[Span, ...]:
        """Return the spans before and after `block`, in order; an empty one is left out."""
        before, after = block[0], layers - block[-1] - 1
        if self.prefix == self.suffix:
            kept = _shared(before, after, compressed_layers(before + after, self.prefix.rate))
        else:
            kept = (
                compressed_layers(before, self.prefix.rate),
                compressed_layers(after, self.suffix.rate),
            )
        spans = (
            Span(0, before, kept[0], self.prefix.trained, self.prefix.bits),
            Span(layers - after, layers, kept[1], self.suffix.trained, self.suffix.bits),
        )
        return tuple(span for span in spans if span.stop > span.start)


EXACT = Context(Recipe(), Recipe())  # the other layers as they are


def compressed_layers(unselected: int, rate: float) -> int:
    """Return ⌈n·r⌉ (PAPER Sec. 3.3), safe against n·r being a hair above a whole number."""
    return math.ceil(round(unselected * rate, 9))


def _shared(before: int, after: int, budget: int) -> tuple[int, int]:
    """Share `budget` stand-in layers between the layers before and after a block.

    The paper does not say how.  It is done in proportion to the numbers of layers by largest
    remainder, a tie going to the prefix, and both get at least one layer whenever there are two
    to share.
    """
    unselected = before + after
    if not unselected:
        return 0, 0
    prefix = (2 * budget * before + unselected) // (2 * unselected)  # nearest, a half goes up
    if before and after and budget >= 2:
        prefix = min(max(prefix, 1), budget - 1)
    return prefix, budget - prefix


def source_of(unit: Span) -> Span:
    """Return the unit of one layer that an untrained unit is a copy of."""
    return replace(unit, start=unit.stop - 1)


def attention_mask(batch: Batch) -> torch.Tensor:
    """Return the batch's mask (B, T), all ones where it has none."""
    mask: Any = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask
