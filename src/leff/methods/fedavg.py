"""FedAvg (McMahan et al. 2017): every client trains all layers, whatever its capacity.

It is the upper bound that LEFF is compared with.  A small device could not run it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from leff.methods.aggregate import merge_layers
from leff.methods.jobs import JobWriter
from leff.methods.method import Opened, Plan, RoundContext
from leff.methods.sums import Means
from leff.models import blocks, trainable_names
from leff.wire.messages import Capacity


class FedAvg:
    """Trains all layers and the tail; averages them by the clients' numbers of examples."""

    name = "fedavg"

    def __init__(self, writer: JobWriter) -> None:
        self._writer = writer

    def begin(self, model: nn.Module) -> None:
        pass

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        everything = (self._writer.block(model, _all(model)),)
        segments = {report.client: everything for report in reports}
        return Plan(self._writer.jobs(self._writer.frame(model), context, segments))

    def opened(self, model: nn.Module, context: RoundContext) -> Opened:
        parameters, names = dict(model.named_parameters()), trainable_names(model, _all(model))
        return Opened.by_all({name: parameters[name] for name in names})

    def merge(self, model: nn.Module, means: Means) -> None:
        merge_layers(model, means)

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass


def _all(model: nn.Module) -> range:
    return range(len(blocks(model)))
