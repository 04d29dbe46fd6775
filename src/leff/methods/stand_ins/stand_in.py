"""Spans, recipes and contexts: how the layers that a client does not train are replaced.

PAPER Sec. 3.3.  A client that trains layers 3 and 4 of 8 has two spans to replace: 0-2 and 5-7.

    context = Context(Recipe(0.5, trained=True), Recipe(0.5, trained=True))
    context.spans(block=range(3, 5), layers=8)   # (Span(0, 3, 2, True), Span(5, 8, 1, True))

A `Recipe` says how many layers are kept, whether they are trained to make up for the others, and
in how many bits they are sent.  All clients share spans: there are about 2L, for any number of
clients N.  Spans consist of units, and there are even fewer units.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How layers are replaced: ⌈n·rate⌉ of n stay, are `trained` or not, and are sent in `bits`."""

    rate: float = 1.0  # r
    trained: bool = False
    bits: int = 32  # bits of a linear weight: 32, 16, 8 or 4


@dataclass(frozen=True, order=True)
class Span:
    """Layers start to stop-1 of the full model, which `layers` layers replace."""

    start: int
    stop: int
    layers: int
    trained: bool = False
    bits: int = 32

    @property
    def sources(self) -> tuple[int, ...]:
        """The full model's layer whose output each stand-in layer should give, evenly spread.

        Layer j of m in a span of n has the source ⌈(j+1)·n/m⌉ - 1.  So the last source is the last
        layer of the span, whose output the rest of the model reads.
        """
        length = self.stop - self.start
        return tuple(
            self.start + math.ceil((j + 1) * length / self.layers) - 1 for j in range(self.layers)
        )

    def units(self, whole: bool = False) -> tuple["Span", ...]:
        """Return the units that are made separately and shared with other spans.

        Each stand-in layer is a unit.  It covers the layers after the previous source, up to its
        own source.  A unit that covers a single layer is that layer, untrained.  With `whole`, a
        span that trains is one unit, whose layers train jointly.
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
    """A span's replacement: the tensors of each layer, by names inside a layer, and its error.

    `error` is ‖H_s - H_t‖ / ‖H_t‖ at the span's last layer, over the unpadded positions of the
    proxy data.  Both get the full model's hidden states as input.
    """

    span: Span
    tensors: tuple[Mapping[str, torch.Tensor], ...]
    error: float


@dataclass(frozen=True)
class Context:
    """The recipes for the layers before a client's block (`prefix`) and after it (`suffix`).

    If both recipes are equal, all n unselected layers share the budget of ⌈n·r⌉ layers (PAPER
    Sec. 3.3).  If they differ, each side has its own budget.
    """

    prefix: Recipe
    suffix: Recipe

    def spans(self, block: Sequence[int], layers: int) -> tuple[Span, ...]:
        """Return the spans before and after `block`, in order; an empty span is left out."""
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


EXACT = Context(Recipe(), Recipe())  # the other layers unchanged


def compressed_layers(unselected: int, rate: float) -> int:
    """Return ⌈n·r⌉ (PAPER Sec. 3.3), also if rounding puts n·r just above a whole number."""
    return math.ceil(round(unselected * rate, 9))


def _shared(before: int, after: int, budget: int) -> tuple[int, int]:
    """Share `budget` stand-in layers between the layers before and after a block.

    The paper does not say how.  We share in proportion to the numbers of layers, by largest
    remainder.  A tie goes to the prefix.  With a budget of two or more, both sides get a layer.
    """
    unselected = before + after
    if not unselected:
        return 0, 0
    prefix = (2 * budget * before + unselected) // (2 * unselected)  # nearest, a half goes up
    if before and after and budget >= 2:
        prefix = min(max(prefix, 1), budget - 1)
    return prefix, budget - prefix


def source_of(unit: Span) -> Span:
    """Return the unit of one layer that an untrained unit copies."""
    return replace(unit, start=unit.stop - 1)


def attention_mask(batch: Batch) -> torch.Tensor:
    """Return the batch's mask (B, T), or all ones if it has none."""
    mask: Any = batch.get("attention_mask")
    return torch.ones_like(batch["input_ids"]) if mask is None else mask
