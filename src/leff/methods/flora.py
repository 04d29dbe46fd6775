"""FLoRA: stacks the adapters, so the mean of their products is exact.

Wang et al., "Federated fine-tuning LLMs with heterogeneous low-rank adaptations", NeurIPS 2024.

    W ← W + Σ_i p_i · s_i · B_i · A_i ,   p_i = D_i / Σ_j D_j,   s_i = α / R_i

The stacks B = [p_1 s_1 B_1, …] (out, Σ R_i) and A = [A_1; …] (Σ R_i, in) have exactly this product
for any ranks.  Clients get the stack, add it to their weights, and start the next round with a
fresh adapter.  The stack and the download grow with the number of clients that take part.

Stacks add up over the rounds.  As soon as they have more bytes than the weights that they are added
to, the server folds them: clients get these weights as they are now, and no earlier stack.  So a
round costs the same however many came before.  Folding is ours.  It changes no bit, since clients
add the same stacks in the same order as the server did.
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
    """Trains adapters of rank `ranks[client]` on each client; keeps the stacks since a fold."""

    name = "flora"

    def __init__(
        self, base: WholeModel, model: Any, ranks: Sequence[int], alpha: float, seed: int
    ) -> None:
        self._base, self._ranks, self._alpha, self._seed = base, ranks, alpha, seed
        self._targets = lora.target_shapes(model)
        self._folded: dict[str, torch.Tensor] = {}  # weights at the last fold, by name
        self._stacks: list[dict[str, torch.Tensor]] = []  # of the rounds since

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        own, store = own_parameters(model), self._base.store
        part = store.put(own) if own else None
        folded = ({name: tensor} for name, tensor in self._folded.items())  # one in memory at once
        merged = tuple(store.put(tensors) for tensors in (*folded, *self._stacks))
        tuned = {
            report.client: Tuned(
                {
                    **lora.adapter_shapes(
                        self._targets, self._ranks[report.client % len(self._ranks)]
                    ),
                    **shapes_of(own),
                },
                part,
                self._alpha / self._ranks[report.client % len(self._ranks)],
                derive_seed(self._seed, "flora", context.index, report.client),
                merged,
            )
            for report in reports
        }
        ranks = {
            str(report.client): self._ranks[report.client % len(self._ranks)] for report in reports
        }
        return Plan(self._base.jobs(context, tuned), {"ranks": ranks})

    def merge_updates(self, model: Any, updates: Iterable[Update]) -> None:
        stack, tail = stacked_updates(updates, self._ranks, self._alpha)
        if not stack:
            return
        lora.add_products(model, stack)
        put_parameters(model, tail)
        self._stacks.append(lora.named(stack))
        self._fold(model)

    def _fold(self, model: Any) -> None:
        """Keep the weights in place of the stacks, if these have more bytes."""
        names = [f"{module}.weight" for module in self._targets]
        weights = {name: model.get_parameter(name).detach() for name in names}
        added = sum(tensor.nbytes for stack in self._stacks for tensor in stack.values())
        if added > sum(tensor.nbytes for tensor in weights.values()):
            self._folded = {name: tensor.clone() for name, tensor in weights.items()}
            self._stacks = []

    def state(self) -> dict[str, torch.Tensor]:
        kept = {"folded": self._folded, **dict(enumerate(self._stacks))}
        return {f"{key}/{name}": t for key, tensors in kept.items() for name, t in tensors.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        kept: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            key, _, own = name.partition("/")
            kept.setdefault(key, {})[own] = tensor
        self._folded = kept.pop("folded", {})
        self._stacks = [kept[str(number)] for number in range(len(kept))]
