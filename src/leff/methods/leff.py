"""LEFF (PAPER Sec. 3): each client trains a block of layers inside a model of stand-ins.

method = Leff(writer, sampler, AsReported(context), bank, Merge(relaxation=2.0), proxy)
plan = method.plan(model, round_context, reports)     # steps 2 and 3 of the round
method.merge(model, add_up(updates))                  # step 5
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from leff.methods.aggregate import Merge
from leff.methods.assignment import Assignment
from leff.methods.jobs import JobWriter
from leff.methods.level import probed
from leff.methods.method import Opened, Plan, RoundContext
from leff.methods.sampling import BlockSampler, in_turn
from leff.methods.stand_ins import Bank, Batch, Span, StandIn
from leff.methods.sums import Means
from leff.models import blocks, layer_prefix, layer_state, trainable_names
from leff.wire.messages import Capacity, Part, Segment


class Leff:
    """Samples layers, compresses the others, and aggregates layer by layer.

    `proxy` has batches of public data without labels, on which the stand-ins are made.  `sizes` are
    the layers that clients train, in turn, as far as that is known beforehand.
    """

    name = "leff"

    def __init__(
        self,
        writer: JobWriter,
        sampler: BlockSampler,
        assignment: Assignment,
        bank: Bank,
        merge: Merge,
        proxy: Sequence[Batch],
        sizes: Sequence[int] = (),
    ) -> None:
        self._writer, self._sampler, self._assignment = writer, sampler, assignment
        self._bank, self._merge, self._proxy, self._sizes = bank, merge, proxy, sizes

    def begin(self, model: nn.Module) -> None:
        pass

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        assigned, layers = self._assignment.assign(model, reports), len(blocks(model))
        if not assigned and not self._sampler.together:  # no client has the memory and the time
            return Plan(())
        wanted = {client: own.layers for client, own in assigned.items()}
        labels = {
            report.client: [report.examples * share for share in report.labels]
            for report in reports
            if report.labels
        }
        seen = {report.client: probed(report) for report in reports}
        drawn = self._sampler.draw(model, context, wanted, labels, seen)  # Sec. 3.2
        around = {
            client: assigned[client].context.spans(block, layers)
            for client, block in drawn.blocks.items()
        }
        expected = self._expected(model, context)
        stand_ins = self._compress(model, context, [*around.values(), *expected])  # Sec. 3.3
        frozen = self._frozen(stand_ins)
        trained = self._trained(model, drawn.blocks.values())
        segments = {
            client: _segments(block, around[client], trained, frozen)
            for client, block in drawn.blocks.items()
        }
        facts = {**drawn.facts, "context_error": _errors(stand_ins.values())}
        if any(own.name for own in assigned.values()):
            facts["contexts"] = {str(client): own.name for client, own in assigned.items()}
        return Plan(self._writer.jobs(self._writer.frame(model), context, segments), facts)

    def opened(self, model: nn.Module, context: RoundContext) -> Opened:
        """Return the layers that clients of the known sizes train in this round, and the tail.

        If no size is known, these are all layers, each as if every client trained it.  Blocks must
        be drawn together.
        """
        nested, parameters = self._sampler.nested(model, context), dict(model.named_parameters())
        shares = dict.fromkeys(trainable_names(model, ()), 1.0)
        for layer in range(len(nested)):
            inside = [layer in nested[size - 1] for size in self._sizes] or [True]
            prefix = layer_prefix(model, layer)
            own = [name for name in parameters if name.startswith(prefix)]
            if any(inside):
                shares |= dict.fromkeys(own, sum(inside) / len(inside))
        return Opened({name: parameters[name] for name in shares}, shares)

    def merge(self, model: nn.Module, means: Means) -> None:
        self._merge.apply(model, means)  # Sec. 3.5
        self._sampler.take_in(means)

    def _expected(self, model: nn.Module, context: RoundContext) -> list[tuple[Span, ...]]:
        """Return the spans around the round's block of every size, if all draw together.

        Students then learn in the same rounds, whoever takes part.  A client may train fewer layers
        than are known of it, so all sizes up to the largest count.
        """
        if not self._sampler.together:
            return []
        nested = self._sampler.nested(model, context)
        sizes = range(1, max(self._sizes, default=0) + 1)
        reports = [Capacity(place, size, 1) for place, size in enumerate(sizes)]
        assigned = self._assignment.assign(model, reports).values()
        return [own.context.spans(nested[own.layers - 1], len(nested)) for own in assigned]

    def _compress(
        self, model: nn.Module, context: RoundContext, around: Iterable[tuple[Span, ...]]
    ) -> dict[Span, StandIn]:
        spans = sorted({span for own in around for span in own})
        if not spans:
            return {}
        return self._bank.make(model, spans, in_turn(self._proxy, context.index), context.decided)

    def _frozen(self, stand_ins: Mapping[Span, StandIn]) -> dict[Span, Segment]:
        """Return each stand-in as a segment; tensors that spans share are stored once."""
        layers = {id(tensors): tensors for s in stand_ins.values() for tensors in s.tensors}
        parts = {key: self._writer.store.put(tensors) for key, tensors in layers.items()}
        return {
            span: Segment(span.sources, tuple(parts[id(t)] for t in s.tensors), bits=span.bits)
            for span, s in stand_ins.items()
        }

    def _trained(self, model: nn.Module, drawn: Iterable[range]) -> dict[int, Part]:
        """Return the part of every layer that a client trains."""
        return {
            layer: self._writer.store.put(layer_state(model, layer))
            for layer in sorted({layer for block in drawn for layer in block})
        }

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "bank": self._bank,
            "assignment": self._assignment,
            "merge": self._merge,
            "sampler": self._sampler,
        }

    def state(self) -> dict[str, torch.Tensor]:
        return {
            f"{key}/{name}": tensor
            for key, part in self._parts.items()
            for name, tensor in part.state().items()
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        for key, part in self._parts.items():
            own = {n: t for n, t in state.items() if n.startswith(f"{key}/")}
            part.load_state({n.removeprefix(f"{key}/"): t for n, t in own.items()})


def _segments(
    block: range,
    around: Sequence[Span],
    trained: Mapping[int, Part],
    frozen: Mapping[Span, Segment],
) -> tuple[Segment, ...]:
    """Return a client's segments in order: stand-ins before the block, the block, those after."""
    before = [frozen[span] for span in around if span.stop <= block.start]
    after = [frozen[span] for span in around if span.start >= block.stop]
    own = Segment(tuple(block), tuple(trained[layer] for layer in block), trains=True)
    return (*before, own, *after)


def _errors(stand_ins: Iterable[StandIn]) -> dict[str, float]:
    """Return the worst error of each span of layers, by first and last layer."""
    errors: dict[str, float] = {}
    for each in stand_ins:
        key = f"{each.span.start}-{each.span.stop - 1}"
        errors[key] = max(each.error, errors.get(key, 0.0))
    return errors
