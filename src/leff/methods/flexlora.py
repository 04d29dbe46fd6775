"""FlexLoRA: averages the products, and cuts the mean to each client's rank (Bai et al. 2024).

    ΔW = Σ_i p_i · s_i · B_i · A_i ,   p_i = D_i / Σ_j D_j,   s_i = α / R_i

The global model is W + ΔW.  Client i starts the next round from the best approximation of ΔW with
rank R_i: s_i · B_i = U · S and A_i = Vᵀ, cut to R_i.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from leff.methods.adapters import stacked_updates
from leff.methods.method import Plan, RoundContext
from leff.methods.whole import WholeModel, own_parameters, put_parameters, shapes_of
from leff.models import lora
from leff.wire.messages import Capacity, Tuned, Update


class FlexLora:
    """Trains adapters of rank `ranks[client]` on each client; keeps ΔW as U · S and Vᵀ."""

    name = "flexlora"

    def __init__(
        self, base: WholeModel, model: Any, ranks: Sequence[int], alpha: float, seed: int
    ) -> None:
        self._base, self._ranks, self._alpha, self._seed = base, ranks, alpha, seed
        self._targets = lora.target_shapes(model)
        self._update: dict[str, lora.Product] = {}  # ΔW; empty before the first round

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        own = own_parameters(model)
        by_rank: dict[int, Tuned] = {}
        for rank in sorted({self._ranks[report.client % len(self._ranks)] for report in reports}):
            tensors = {**self._cut(rank), **own}
            part = self._base.store.put(tensors)
            by_rank[rank] = Tuned(shapes_of(tensors), part, self._alpha / rank)
        tuned = {
            report.client: by_rank[self._ranks[report.client % len(self._ranks)]]
            for report in reports
        }
        ranks = {
            str(report.client): self._ranks[report.client % len(self._ranks)] for report in reports
        }
        return Plan(self._base.jobs(context, tuned), {"ranks": ranks})

    def _cut(self, rank: int) -> dict[str, torch.Tensor]:
        """Return the adapters of ΔW in this rank.

        If ΔW has a lower rank, A's other rows are fresh and B's are zero: two zeros cannot learn.
        """
        tensors = lora.fresh(lora.adapter_shapes(self._targets, rank), self._seed)
        for module, (b, a) in self._update.items():
            kept = min(rank, a.shape[0])
            tensors[f"{module}.{lora.B}"][:, :kept] = b[:, :kept] * (rank / self._alpha)
            tensors[f"{module}.{lora.A}"][:kept] = a[:kept]
        return tensors

    def merge_updates(self, model: Any, updates: Iterable[Update]) -> None:
        stack, tail = stacked_updates(updates, self._ranks, self._alpha)
        if not stack:
            return
        new = {module: _in_factors(product) for module, product in stack.items()}
        lora.replace_products(model, self._update, new)
        put_parameters(model, tail)
        self._update = new

    def state(self) -> dict[str, torch.Tensor]:
        return lora.named(self._update)

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._update = lora.products(state)


def _in_factors(product: lora.Product) -> lora.Product:
    u, s, vt = lora.factored(product)
    return (u * s).float().contiguous(), vt.float().contiguous()
