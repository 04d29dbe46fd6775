"""The mean loss of a batch, without a language model's full logits.

    loss = mean_loss(model, batch)       # as model(**batch).loss, in fp32
    label_count(batch["labels"])         # what it is the mean over

With a vocabulary of 50k to 128k the logits (B, T, V) are by far the largest tensor of a step.
Here the body runs without the head, and positions without a label are left out.  The head and the
cross-entropy are computed for `POSITIONS` labels at a time.  The forward pass also computes the
gradients of the hidden states, and of the head's weight if it trains, from each chunk's logits.
The backward pass would need another product with the head to make those logits again.

Legend: B batch, T tokens, D width, V vocabulary, N positions with a label, C of them in a chunk.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leff.models import body_and_head, uncached
from leff.models.hardware import product_dtype
from leff.models.scratch import Scratch

IGNORED = -100  # the label that torch's cross-entropy leaves out
ROWS = 2048  # how many rows are cast at a time, of a head that multiplies in another type
POSITIONS = 128  # C, our choice: one (C, V) exists at a time, 26 MB with GPT-2's vocabulary
SOFTMAX_ROWS = 4  # of it that have their softmax beside it: they stay in the cache


def mean_loss(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's own loss on a batch, in fp32: the mean over the batch's labels.

    It is computed in chunks for a language model whose logits are one product, and by the model
    itself otherwise.  Inside autocast the products have its type.  A language model's loss is NaN
    if the batch has no label.
    """
    parts = body_and_head(model) if _are_tokens(batch["labels"]) else None
    if parts is None:
        return model(**batch, **uncached(model)).loss.float()
    body, weight = parts
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = body(**inputs, **uncached(body)).last_hidden_state  # (B, T, D)
    return chunked_loss(hidden, weight, batch["labels"])


def label_count(labels: torch.Tensor) -> int:
    """Return the number of labels that a batch's mean loss is over.

    A language model's labels are (B, T), and no position predicts the first token.  Other labels
    are (B,), or (B, K) if an example may have several of K classes: then a label is a row.
    """
    return int((labels[:, 1:] != IGNORED).sum()) if _are_tokens(labels) else len(labels)


def _are_tokens(labels: torch.Tensor) -> bool:
    return labels.dim() == 2 and not labels.is_floating_point()


def chunked_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, positions: int = POSITIONS
) -> torch.Tensor:
    """Return the mean cross-entropy of softmax(hidden · Wᵀ) with the next token's label.

    `hidden` is (B, T, D).  `weight` is (V, D); a frozen one may be in 16 bits.  `labels` is (B, T),
    with -100 for no label.  Logits exist for at most `positions` labels at a time.  The backward
    pass can run only once.
    """
    targets = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()  # (B·T,)
    rows = (targets != IGNORED).nonzero().squeeze(1)  # (N,)
    labelled = hidden.flatten(0, 1).index_select(0, rows)  # (N, D)
    learning = torch.is_grad_enabled()
    return _ChunkedLoss.apply(labelled, weight, targets, rows, positions, learning)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped


class _ChunkedLoss(torch.autograd.Function):
    """The loss together with its gradients, which the backward pass scales in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,  # (N, D)
        weight: torch.Tensor,  # (V, D)
        targets: torch.Tensor,  # (B·T,)
        rows: torch.Tensor,  # (N,)
        positions: int,
        learning: bool,
    ) -> torch.Tensor:
        to_hidden, to_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        hidden_gradient = torch.empty_like(hidden) if to_hidden else None
        weight_gradient = torch.zeros_like(weight) if to_weight else None
        losses = torch.zeros_like(targets, dtype=torch.float32)
        dtype = product_dtype(hidden)
        inputs, scratch = hidden.to(dtype), Scratch()
        for part in _parts(len(rows), positions):
            gradient = _logits(inputs[part], weight, scratch)  # (C, V)
            losses[rows[part]] = _to_gradient(gradient, targets[rows[part]], 1 / len(rows))
            if hidden_gradient is not None:
                hidden_gradient[part] = _back(gradient, weight, scratch)
            if weight_gradient is not None:
                _add_product(weight_gradient, gradient, inputs[part])
            del gradient  # before the next one is made
        ctx.gradients = hidden_gradient, weight_gradient
        # Like the library, sum over all positions, even those without a label: the same last bits.
        return functional.nll_loss(-losses[:, None], targets.clamp(max=0), ignore_index=IGNORED)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None  # freed early: the head's may be gigabytes
        scaled = (None if each is None else each.mul_(grad_outputs[0]) for each in gradients)
        return (*scaled, None, None, None, None)


def _parts(count: int, most: int) -> list[slice]:
    """Return consecutive slices of `count` positions: even ones, of at most `most` each."""
    parts = math.ceil(count / most)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def _to_gradient(logits: torch.Tensor, targets: torch.Tensor, share: float) -> torch.Tensor:
    """Return each position's loss, (C,), in fp32.

    The logits (C, V) become the gradient of `share` times the losses' sum.  Both come from torch's
    own kernels.
    """
    losses = logits.new_empty(len(logits), dtype=torch.float32)
    for part in _parts(len(logits), SOFTMAX_ROWS):
        log_p = functional.log_softmax(logits[part], dim=1, dtype=torch.float32)
        columns = targets[part, None]
        losses[part] = -log_p.gather(1, columns).squeeze(1)
        gradient = torch.zeros_like(log_p).scatter_(1, columns, -share)
        logits[part] = torch.ops.aten._log_softmax_backward_data(gradient, log_p, 1, torch.float32)
    return losses


def _head_parts(weight: torch.Tensor, dtype: torch.dtype) -> list[slice]:
    """Return the slices of the head's rows that are multiplied at a time.

    It is one slice unless the rows have to be cast: a cast copy of the whole head would be the
    largest tensor of the step.
    """
    return [slice(None)] if weight.dtype == dtype else _parts(len(weight), ROWS)


def _cast(
    weight: torch.Tensor, dtype: torch.dtype, scratch: Scratch
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the head's rows, and the rows as `dtype`; each is good until the next.

    A head of several slices has them in the same memory.
    """
    parts = _head_parts(weight, dtype)
    for part in parts:
        rows = weight[part]
        if len(parts) > 1:
            yield part, scratch.take(rows, rows.shape, dtype).copy_(rows)
        else:
            yield part, rows.to(dtype)


def _logits(inputs: torch.Tensor, weight: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """Return inputs · Wᵀ, (C, V)."""
    if len(_head_parts(weight, inputs.dtype)) == 1:  # it needs no second tensor to be put into
        return functional.linear(inputs, weight.to(inputs.dtype))
    logits = inputs.new_empty(len(inputs), len(weight))
    for part, rows in _cast(weight, inputs.dtype, scratch):
        logits[:, part] = functional.linear(inputs, rows)
    return logits


def _back(gradient: torch.Tensor, weight: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """Return gradient · W, (C, D); the sum over several slices is in fp32."""
    total: torch.Tensor | None = None
    for part, rows in _cast(weight, gradient.dtype, scratch):
        product = gradient[:, part] @ rows
        total = product if total is None else total.float().add_(product)
    assert total is not None  # a head has rows
    return total


def _add_product(total: torch.Tensor, gradient: torch.Tensor, inputs: torch.Tensor) -> None:
    """Add gradientᵀ · inputs to `total` (V, D), without a second tensor of its size."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), inputs)
        return
    for part in _parts(len(total), ROWS):
        total[part] += gradient[:, part].t() @ inputs
