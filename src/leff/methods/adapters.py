"""Merging adapters: factors apart, or their exact products.

adapters = merge_adapters(model, adapters, scale, updates)         # FedLoRA
stack, tail = stacked_updates(updates, ranks, alpha)               # FLoRA, FlexLoRA
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from leff.methods.sums import weighted_mean
from leff.methods.whole import put_parameters
from leff.models import lora
from leff.wire.messages import Update
from leff.wire.tensors import unpack


def merge_adapters(
    model: Any, adapters: Mapping[str, torch.Tensor], scale: float, updates: Iterable[Update]
) -> dict[str, torch.Tensor]:
    """Average A, B and the classifier apart, put them into the model, return the new adapters.

    The model holds W + scale · B · A of the `adapters` before.  Without updates all stays.
    """
    means = weighted_mean(payloads(updates))
    if not means:
        return dict(adapters)
    new = {name: means[name].tensor.float() for name in adapters}
    lora.replace_products(model, lora.products(adapters), lora.products(new), scale)
    put_parameters(model, {name: mean.tensor for name, mean in means.items()})
    return new


def stacked_updates(
    updates: Iterable[Update], ranks: Sequence[int], alpha: float
) -> tuple[dict[str, lora.Product], dict[str, torch.Tensor]]:
    """Return factors whose product is Σ_i p_i · s_i · B_i · A_i, and the mean of all else.

    p_i = D_i / Σ_j D_j, s_i = alpha / ranks[i].  All adapters are in memory together.  Both are
    empty without updates.
    """
    found = [(update.client, update.examples, unpack(update.payload)) for update in updates]
    if not found:
        return {}, {}
    total = sum(examples for _, examples, _ in found)
    stack = lora.stacked(
        [
            (examples / total * alpha / ranks[client], lora.products(tensors))
            for client, examples, tensors in found
        ]
    )
    others = ((n, {k: t for k, t in own.items() if not lora.is_adapter(k)}) for _, n, own in found)
    return stack, {name: mean.tensor for name, mean in weighted_mean(others).items()}


def payloads(updates: Iterable[Update]) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield D_i and the tensors of every update."""
    return ((update.examples, unpack(update.payload)) for update in updates)
