"""The mean loss of a batch, without a language model's full logits.

    loss = mean_loss(model, batch)       # as model(**batch).loss, in fp32
    label_count(batch["labels"])         # what it is the mean over

With a vocabulary of 50k to 128k the logits (B, T, V) are the largest tensor of a step, several
times over.  Here the body runs without the head, positions without a label are left out, and head
and cross-entropy are computed for `POSITIONS` labels at a time.  The gradients of the hidden
states, and of the head's weight if it trains, are made in the forward pass, while a chunk's logits
are there: making those anew in the backward pass would take another product with the head.

Legend: B batch, T tokens, D width, V vocabulary, N positions with a label, C of them in a chunk.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from leff.models import body_and_head, uncached
from leff.models.hardware import product_dtype

IGNORED = -100  # the label that torch's cross entropy leaves out
ROWS = 8192  # of a head that is stored in another type than it multiplies in, cast at a time
POSITIONS = 128  # C, our choice: three (C, V) are there at a time, 77 MB with GPT-2's vocabulary


def mean_loss(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the model's own loss on a batch with labels, in fp32: the mean over them.

    In chunks for a language model whose logits are one product, else as the model computes it.
    Inside autocast the products are of its type.  NaN for a language model without a label.
    """
    found = body_and_head(model) if batch["labels"].dim() == 2 else None
    if found is None:
        return model(**batch, **uncached(model)).loss.float()
    body, weight = found
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden = body(**inputs, **uncached(body)).last_hidden_state  # (B, T, D)
    return chunked_loss(hidden, weight, batch["labels"])


def label_count(labels: torch.Tensor) -> int:
    """Return how many labels a batch's mean loss is over.

    A language model's are (B, T), and nothing predicts the first token; others are (B,).
    """
    return int((labels[:, 1:] != IGNORED).sum()) if labels.dim() == 2 else len(labels)


def chunked_loss(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, positions: int = POSITIONS
) -> torch.Tensor:
    """Return the mean cross-entropy of softmax(hidden · Wᵀ) with the next token's label.

    `hidden` (B, T, D); `weight` (V, D), in 16 bits if it is frozen; `labels` (B, T), -100 where
    there is none.  Logits are made for at most `positions` labels at a time.  Gradients can be
    taken once.
    """
    targets = functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].flatten()  # (B·T,)
    rows = (targets != IGNORED).nonzero().squeeze(1)  # (N,)
    labelled = hidden.flatten(0, 1).index_select(0, rows)  # (N, D)
    return _ChunkedLoss.apply(labelled, weight, targets, rows, positions, torch.is_grad_enabled())


class _ChunkedLoss(torch.autograd.Function):
    """The loss, and its gradients with it; the backward pass scales them in place."""

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
        inputs = hidden.to(dtype)
        for part in _parts(len(rows), positions):
            each, gradient = _loss_and_gradient(
                _logits(inputs[part], weight), targets[rows[part]], 1 / len(rows)
            )
            losses[rows[part]] = each
            gradient = gradient.to(dtype)  # (C, V)
            if hidden_gradient is not None:
                hidden_gradient[part] = _back(gradient, weight)
            if weight_gradient is not None:
                _add_product(weight_gradient, gradient, inputs[part])
        ctx.gradients = hidden_gradient, weight_gradient
        # summed by position as the library does, those without a label too: the same last bits
        return functional.nll_loss(-losses[:, None], targets.clamp(max=0), ignore_index=IGNORED)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        made, ctx.gradients = ctx.gradients, None  # given away: the head's may be gigabytes
        scaled = (None if each is None else each.mul_(grad_outputs[0]) for each in made)
        return (*scaled, None, None, None, None)


def _parts(count: int, most: int) -> list[slice]:
    """Return consecutive slices of `count` positions, as even as can be, `most` at most."""
    parts = math.ceil(count / most)
    return [slice(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def _loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each position's loss (C,), and the gradient of `share` times their sum (C, V).

    By the library's own kernels, in fp32.
    """
    log_p = functional.log_softmax(logits, dim=1, dtype=torch.float32)  # (C, V)
    del logits
    columns = targets[:, None]
    losses = -log_p.gather(1, columns).squeeze(1)
    gradient = torch.zeros_like(log_p).scatter_(1, columns, -share)
    return losses, torch.ops.aten._log_softmax_backward_data(gradient, log_p, 1, torch.float32)


def _head_parts(weight: torch.Tensor, dtype: torch.dtype) -> list[slice]:
    """Return the rows of the head that are multiplied at a time: all, unless they have to be cast.

    A cast copy of the whole head would be the largest tensor of the step.
    """
    return [slice(None)] if weight.dtype == dtype else _parts(len(weight), ROWS)


def _logits(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    parts = _head_parts(weight, inputs.dtype)
    made = [functional.linear(inputs, weight[part].to(inputs.dtype)) for part in parts]
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)  # (C, V)


def _back(gradient: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return gradient · W, (C, D)."""
    first, *others = _head_parts(weight, gradient.dtype)
    total = gradient[:, first] @ weight[first].to(gradient.dtype)
    for part in others:
        total += gradient[:, part] @ weight[part].to(gradient.dtype)
    return total


def _add_product(total: torch.Tensor, gradient: torch.Tensor, inputs: torch.Tensor) -> None:
    """Add gradientᵀ · inputs to `total` (V, D), without a second one."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), inputs)
        return
    for part in _parts(len(total), ROWS):
        total[part] += gradient[:, part].t() @ inputs
