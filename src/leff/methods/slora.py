"""SLoRA: a sparse stage finds a start for the adapters, then FedLoRA (Babakniya et al. 2023).

Stage one, the first rounds: every client trains the same few weights of each linear module, at
random positions, and the server averages them.  Then the adapters start from each module's update
ΔW: s · B · A is the best approximation of ΔW with rank R (by SVD).  The weights beside them are the
run's initial weights.  Stage two is FedLoRA.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from leff.methods.adapters import merge_adapters
from leff.methods.method import Opened, Plan, RoundContext
from leff.methods.sums import Means
from leff.methods.whole import WholeModel, own_parameters, put_parameters, shapes_of
from leff.models import lora, sparse
from leff.models.hardware import wide
from leff.wire.messages import Capacity, Tuned


class SLora:
    """Trains as many sparse values as adapters have for `sparse_rounds` rounds, then adapters."""

    name = "slora"

    def __init__(
        self, base: WholeModel, model: Any, rank: int, alpha: float, sparse_rounds: int, seed: int
    ) -> None:
        self._base, self._rank, self._scale, self._seed = base, rank, alpha / rank, seed
        self._sparse_rounds, self._round = sparse_rounds, 0
        shapes = sparse.sparse_shapes(lora.target_shapes(model), rank)
        self._trained = lora.fresh(shapes, seed)  # sparse values, zero at first; then adapters

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        self._round = context.index
        tensors = self.opened(model, context).values
        part = self._base.store.put(tensors)
        tuned = Tuned(shapes_of(tensors), part, self._scale, self._seed)
        stage = 1 if self._round < self._sparse_rounds else 2
        jobs = self._base.jobs(context, {report.client: tuned for report in reports})
        return Plan(jobs, {"slora_stage": stage})

    def opened(self, model: Any, context: RoundContext) -> Opened:
        return Opened.by_all({**self._trained, **own_parameters(model)})

    def merge(self, model: Any, means: Means) -> None:
        if self._round >= self._sparse_rounds:
            self._trained = merge_adapters(model, self._trained, self._scale, means)
            return
        self._merge_sparse(model, means)
        if self._round == self._sparse_rounds - 1:
            self._trained = self._adapters(model)

    def _merge_sparse(self, model: Any, means: Means) -> None:
        if not means.shapes:
            return
        new = {name: means.mean(name).tensor.float() for name in self._trained}
        sparse.add_sparse(
            model, {name: new[name] - own for name, own in self._trained.items()}, self._seed
        )
        put_parameters(model, means)
        self._trained = new

    @torch.no_grad()
    def _adapters(self, model: Any) -> dict[str, torch.Tensor]:
        """Return stage two's first adapters, and replace each update in the model by theirs."""
        shapes = lora.adapter_shapes(lora.target_shapes(model), self._rank)
        fresh = lora.products(lora.fresh(shapes, self._seed))
        products: dict[str, lora.Product] = {}
        for module, values in sparse.modules_of(self._trained).items():
            update = sparse.dense(model, module, values, self._seed)
            u, s, vt = lora.svd(wide(update))
            root = (s[: self._rank] / self._scale).sqrt()
            b, a = u[:, : self._rank] * root, root[:, None] * vt[: self._rank]
            a = torch.where(root[:, None] > 0, a, fresh[module][1])  # two zeros cannot learn
            product = products[module] = b.float().contiguous(), a.float().contiguous()
            weight = lora.linear_weight(model, module)
            weight += (self._scale * lora.multiplied(product, update) - update).to(weight)
        return lora.named(products)

    def state(self) -> dict[str, torch.Tensor]:
        return self._trained

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._trained = dict(state)
