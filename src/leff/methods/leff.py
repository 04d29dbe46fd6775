"""LEFF (PAPER Sec. 3): each client trains a block of layers inside a model of stand-ins.

method = Leff(writer, sampler, context, bank, Merge(relaxation=2.0), proxy)
plan = method.plan(model, round_context, reports)     # steps 2 and 3 of the round
method.merge(model, updates)                          # step 5
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from leff.aggregate import Merge
from leff.context import Bank, Batch, Context, Span, StandIn
from leff.families import blocks, layer_state
from leff.methods.method import JobWriter, Plan, RoundContext
from leff.sampling import BlockSampler, in_turn
from leff.types import Capacity, Part, Segment, Update


class Leff:
    """Layer sampling, compression of the rest, layer-wise aggregation.

    `proxy` are batches of public data without labels, which the stand-ins are made on.
    """

    name = "leff"

    def __init__(
        self,
        writer: JobWriter,
        sampler: BlockSampler,
        context: Context,
        bank: Bank,
        merge: Merge,
        proxy: Sequence[Batch],
    ) -> None:
        self._writer, self._sampler, self._context = writer, sampler, context
        self._bank, self._merge, self._proxy = bank, merge, proxy

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        wanted = {report.client: report.layers for report in reports}
        drawn = self._sampler.draw(model, context, wanted)  # Sec. 3.2
        stand_ins = self._compress(model, context, drawn.blocks.values())  # Sec. 3.3
        frozen = self._frozen(stand_ins)
        trained = self._trained(model, drawn.blocks.values())
        segments = {
            client: self._segments(len(blocks(model)), block, trained, frozen)
            for client, block in drawn.blocks.items()
        }
        errors = {f"{s.start}-{s.stop - 1}": i.error for s, i in stand_ins.items()}
        facts = {**drawn.facts, "context_error": errors}
        return Plan(self._writer.jobs(model, context, segments), facts)

    def merge(self, model: nn.Module, updates: Iterable[Update]) -> None:
        self._merge.apply(model, self._sampler.watch(updates))  # Sec. 3.5

    def _compress(
        self, model: nn.Module, context: RoundContext, drawn: Iterable[range]
    ) -> dict[Span, StandIn]:
        layers = len(blocks(model))
        spans = sorted({span for block in drawn for span in self._context.spans(block, layers)})
        if not spans:
            return {}
        return self._bank.make(model, spans, in_turn(self._proxy, context.index), context.decided)

    def _frozen(self, stand_ins: Mapping[Span, StandIn]) -> dict[Span, Segment]:
        """Return each stand-in as a segment; tensors that several spans share are put once."""
        layers = {id(tensors): tensors for s in stand_ins.values() for tensors in s.tensors}
        parts = {key: self._writer.store.put(tensors) for key, tensors in layers.items()}
        return {
            span: Segment(span.sources, tuple(parts[id(t)] for t in s.tensors), bits=span.bits)
            for span, s in stand_ins.items()
        }

    def _trained(self, model: nn.Module, drawn: Iterable[range]) -> dict[int, Part]:
        """Return the part of every layer that somebody trains."""
        return {
            layer: self._writer.store.put(layer_state(model, layer))
            for layer in sorted({layer for block in drawn for layer in block})
        }

    def _segments(
        self,
        layers: int,
        block: range,
        trained: Mapping[int, Part],
        frozen: Mapping[Span, Segment],
    ) -> tuple[Segment, ...]:
        spans = self._context.spans(block, layers)
        before = [frozen[span] for span in spans if span.stop <= block.start]
        after = [frozen[span] for span in spans if span.start >= block.stop]
        own = Segment(tuple(block), tuple(trained[layer] for layer in block), trains=True)
        return (*before, own, *after)

    def state(self) -> dict[str, torch.Tensor]:
        parts = {"bank": self._bank, "sampler": self._sampler, "merge": self._merge}
        return {f"{k}/{name}": t for k, part in parts.items() for name, t in part.state().items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        for key, part in {
            "bank": self._bank,
            "sampler": self._sampler,
            "merge": self._merge,
        }.items():
            prefix = f"{key}/"
            part.load_state(
                {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            )
