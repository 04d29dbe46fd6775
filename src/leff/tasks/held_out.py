"""The loop over held-out examples that everything that measures a model shares.

    held_out_loss(model, examples, batch_size=64, pad_id=0)      # nats per label

A device imports this file: it needs no library of data sets or metrics.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from leff.models.losses import label_count, mean_loss
from leff.tasks.encode import Example, by_length, collate


def held_out_batches(
    examples: Sequence[Example], batch_size: int, pad_id: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, torch.Tensor]]]:
    """Yield each batch with its examples' indices, short examples first."""
    order = by_length(examples)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collate([examples[row] for row in rows], pad_id)
        yield rows, {name: value.to(device) for name, value in batch.items()}


@contextmanager
def eval_mode(model: nn.Module) -> Generator[torch.device]:
    """Put the model into eval mode without gradients for the body; yield its device.

    Afterwards each module is in its own mode again: a client's frozen layers stay in eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        for module, training in modes:
            module.training = training


def held_out_logits(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int, pad_id: int
) -> torch.Tensor:
    """Return a classifier's logits for every example, (n, labels), fp32, on the CPU."""
    logits: list[torch.Tensor] = []
    order: list[int] = []
    with eval_mode(model) as device:
        for rows, batch in held_out_batches(examples, batch_size, pad_id, device):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            logits.append(model(**inputs).logits.float().cpu())
            order += rows
    return torch.cat(logits)[torch.argsort(torch.tensor(order))]


def held_out_loss(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int, pad_id: int
) -> float:
    """Return the model's mean loss over the examples, weighted by labels (nats).

    Raises ValueError if there are no examples, or none has a label.
    """
    total, count = held_out_sum(model, examples, batch_size=batch_size, pad_id=pad_id)
    if not count:
        raise ValueError("there is nothing to evaluate on")
    return total / count


def held_out_sum(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int, pad_id: int
) -> tuple[float, int]:
    """Return the sum of the model's losses over the examples' labels (nats), and their number."""
    total, count = 0.0, 0
    with eval_mode(model) as device:
        for _, batch in held_out_batches(examples, batch_size, pad_id, device):
            weight = label_count(batch["labels"])
            if weight:
                total, count = total + float(mean_loss(model, batch)) * weight, count + weight
    return total, count
