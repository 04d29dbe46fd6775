"""FLoRA: stacks the adapters, so the mean of their products is exact.

Wang et al., "Federated fine-tuning LLMs with heterogeneous low-rank adaptations", NeurIPS 2024.

    W ← W + Σ_i p_i · s_i · B_i · A_i ,   p_i = D_i / Σ_j D_j,   s_i = α / R_i

The stacks B = [p_1 s_1 B_1, …] (out, Σ R_i) and A = [A_1; …] (Σ R_i, in) have exactly this product
for any ranks.  Clients get the stack, add it to their weights, and start the next round with a
fresh adapter.  The stack and the download grow with the number of clients that take part.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from leff.methods.adapters import stacked_updates
from leff.methods.method import Plan, RoundContext
from leff.methods.whole import WholeModel, own_parameters, put_parameters, shapes_of
from leff.models import lora
from leff.seeds import derive_seed
from leff.wire.messages import Capacity, Tuned, Update


class FLora:
    """Trains adapters of rank `ranks[client]` on each client; keeps every round's stack."""

    name = "flora"

    def __init__(
        self, base: WholeModel, model: Any, ranks: Sequence[int], alpha: float, seed: int
    ) -> None:
        self._base, self._ranks, self._alpha, self._seed = base, ranks, alpha, seed
        self._targets = lora.target_shapes(model)
        self._stacks: list[dict[str, torch.Tensor]] = []

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        own, store = own_parameters(model), self._base.store
        part = store.put(own) if own else None
        merged = tuple(store.put(stack) for stack in self._stacks)
        tuned = {
            report.client: Tuned(
                {
                    **lora.adapter_shapes(self._targets, self._ranks[report.client]),
                    **shapes_of(own),
                },
                part,
                self._alpha / self._ranks[report.client],
                derive_seed(self._seed, "flora", context.index, report.client),
                merged,
            )
            for report in reports
        }
        ranks = {str(report.client): self._ranks[report.client] for report in reports}
        return Plan(self._base.jobs(context, tuned), {"ranks": ranks})

    def merge_updates(self, model: Any, updates: Iterable[Update]) -> None:
        stack, tail = stacked_updates(updates, self._ranks, self._alpha)
        if not stack:
            return
        lora.add_products(model, stack)
        put_parameters(model, tail)
        self._stacks.append(lora.named(stack))

    def state(self) -> dict[str, torch.Tensor]:
        return {
            f"{number}/{name}": tensor
            for number, stack in enumerate(self._stacks)
            for name, tensor in stack.items()
        }

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        count = len({name.partition("/")[0] for name in state})
        self._stacks = [{} for _ in range(count)]
        for name, tensor in state.items():
            number, _, own = name.partition("/")
            self._stacks[int(number)][own] = tensor
