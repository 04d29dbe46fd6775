"""The relative error of a stand-in's output against the output of the layers that it replaces.

trace = capture(model, batch)
span_error(Span(0, 3, 1), [layer], trace, attention_mask(batch))      # 0.21
block_errors(model, context, bank.make(...), [range(3, 5)], batch)    # {range(3, 5): 0.34}
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from leff.methods.stand_ins.stand_in import Batch, Context, Span, StandIn, attention_mask
from leff.models import Trace, blocks, capture, run_blocks
from leff.models.quantised import rebuilt
from leff.models.scratch import Scratch


def relative_square(actual: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return ‖actual - wanted‖² / ‖wanted‖² over unpadded positions, a scalar.

    actual, wanted: (B, T, D); mask: (B, T), nonzero where there is a token.
    """
    kept = mask.bool()[..., None]
    difference = ((actual - wanted) * kept).square().sum()
    return difference / (wanted * kept).square().sum()


@torch.no_grad()
def span_error(span: Span, layers: Sequence[nn.Module], trace: Trace, mask: torch.Tensor) -> float:
    """Return ‖H_s - H_t‖ / ‖H_t‖ at the span's end, H_t (B, T, D).

    Both get the full model's hidden states as input, so errors of other spans do not count.
    """
    start = trace.hidden[span.start]
    hidden, _ = run_blocks(layers, start, trace, span.sources, first=span.start == 0)
    return float(relative_square(hidden, trace.hidden[span.stop], mask).sqrt())


@torch.no_grad()
def block_errors(
    model: nn.Module,
    context: Context,
    stand_ins: Mapping[Span, StandIn],
    drawn: Sequence[range],
    batch: Batch,
) -> dict[range, float]:
    """Return the relative error of a client's last hidden state, for each block in `drawn`.

    The client's model runs before any training.  `stand_ins` has one for each span of the blocks.
    """
    model.eval()
    trace, mask, full = capture(model, batch), attention_mask(batch), blocks(model)
    spans = {block: context.spans(block, len(full)) for block in drawn}
    used = {span: stand_ins[span].tensors for around in spans.values() for span in around}
    scratch = Scratch()
    built = {
        span: [rebuilt(full[s], t, scratch) for s, t in zip(span.sources, tensors, strict=True)]
        for span, tensors in used.items()
    }
    errors: dict[range, float] = {}
    for block, around in spans.items():
        own = Span(block.start, block.stop, len(block))
        pieces = {span: built[span] for span in around} | {own: [full[i] for i in block]}
        hidden = trace.hidden[0]
        for span in sorted(pieces):
            opens = not any(earlier.layers for earlier in pieces if earlier < span)
            hidden, _ = run_blocks(pieces[span], hidden, trace, span.sources, first=opens)
        errors[block] = float(relative_square(hidden, trace.hidden[-1], mask).sqrt())
    return errors
