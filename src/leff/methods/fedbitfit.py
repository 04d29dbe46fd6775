"""FedBitFit: every client trains the biases of the whole model, which are averaged.

BitFit (Zaken et al., ACL 2022) with FedAvg's mean, as in FedPETuning (Zhang et al., ACL Findings
2023).  PAPER's Table 5 says what counts as a bias.  A classifier trains whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from leff.methods.aggregate import merge_layers
from leff.methods.method import Opened, Plan, RoundContext
from leff.methods.sums import Means
from leff.methods.whole import WholeModel, own_parameters, shapes_of
from leff.models import bitfit_names
from leff.wire.messages import Capacity, Tuned


class FedBitFit:
    """Trains biases and the classifier; averages them by the clients' numbers of examples.

    Raises ConfigError for a model whose layers have no biases.
    """

    name = "fedbitfit"

    def __init__(self, base: WholeModel, model: Any) -> None:
        self._base, self._names = base, bitfit_names(model)

    def begin(self, model: Any) -> None:
        self._base.put(model)

    def plan(self, model: Any, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        tensors = self.opened(model, context).values
        tuned = Tuned(shapes_of(tensors), self._base.store.put(tensors))
        return Plan(self._base.jobs(context, {report.client: tuned for report in reports}))

    def opened(self, model: Any, context: RoundContext) -> Opened:
        return Opened.by_all(own_parameters(model, self._names))

    def merge(self, model: Any, means: Means) -> None:
        merge_layers(model, means)

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass
