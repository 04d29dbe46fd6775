"""Merges adapters: A and B averaged separately, or their exact products added.

adapters = merge_adapters(model, adapters, scale, means)           # FedLoRA
stack, tail = stacked_updates(updates, ranks, alpha)               # FLoRA, FlexLoRA
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from leff.methods.sums import Means, Sums, weighted_sums
from leff.methods.whole import put_parameters
from leff.models import lora
from leff.wire.messages import Update
from leff.wire.tensors import unpack


def merge_adapters(
    model: nn.Module, adapters: Mapping[str, torch.Tensor], scale: float, means: Means
) -> dict[str, torch.Tensor]:
    """Average A, B and the classifier separately, put them into the model, return the adapters.

    The model holds W + scale · B · A of the old `adapters`.  Without updates nothing changes.
    """
    if not means.shapes:
        return dict(adapters)
    new = {name: means.mean(name).tensor.float() for name in adapters}
    lora.replace_products(model, lora.products(adapters), lora.products(new), scale)
    put_parameters(model, means)
    return new


def stacked_updates(
    updates: Iterable[Update], ranks: Sequence[int], alpha: float
) -> tuple[dict[str, lora.Product], Sums]:
    """Return factors with the product Σ_i p_i · s_i · B_i · A_i, and the sums of all other tensors.

    p_i = D_i / Σ_j D_j, s_i = alpha / ranks[i].  All adapters are in memory at once.  Without
    updates both results are empty.
    """
    sent = [(update.client, update.examples, unpack(update.payload)) for update in updates]
    others = [(n, {k: t for k, t in own.items() if not lora.is_adapter(k)}) for _, n, own in sent]
    sums = weighted_sums(others)
    if not sent:
        return {}, sums
    stack = lora.stacked(
        [
            (examples / sums.total * alpha / ranks[client % len(ranks)], lora.products(tensors))
            for client, examples, tensors in sent
        ]
    )
    return stack, sums
