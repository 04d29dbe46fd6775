"""FedLoRA: adapters of one rank on every client, with A and B averaged separately.

    W + s · mean(B) · mean(A),   s = α / R

Source: FedIT (Zhang et al., ICASSP 2024).  The product of the means is not the mean of the
products; FLoRA and FlexLoRA correct that.  A classifier trains whole beside the adapters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from leff.methods.adapters import merge_adapters
from leff.methods.method import Opened, Plan, RoundContext
from leff.methods.sums import Means
from leff.methods.whole import WholeModel, own_parameters, shapes_of
from leff.models import lora
from leff.wire.messages import Capacity, Tuned


class FedLora:
    """One global adapter.  It starts with B = 0, so round 1 starts from the unchanged model."""

    name = "fedlora"

    def __init__(self, base: WholeModel, model: Any, rank: int, alpha: float, seed: int) -> None:
        self._base, self._scale = base, alpha / rank
        shapes = lora.adapter_shapes(lora.target_shapes(model), rank)
        self._adapters = lora.fresh(shapes, seed)

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        tensors = self.opened(model, context).values
        tuned = Tuned(shapes_of(tensors), self._base.store.put(tensors), self._scale)
        return Plan(self._base.jobs(context, {report.client: tuned for report in reports}))

    def opened(self, model: Any, context: RoundContext) -> Opened:
        return Opened.by_all({**self._adapters, **own_parameters(model)})

    def merge(self, model: Any, means: Means) -> None:
        self._adapters = merge_adapters(model, self._adapters, self._scale, means)

    def state(self) -> dict[str, torch.Tensor]:
        return self._adapters

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self._adapters = dict(state)
