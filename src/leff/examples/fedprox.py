"""A method of one's own: FedProx (Li et al. 2020), a sibling of FedAvg.

    python fedprox.py

Every client trains all layers.  The term μ/2 |θ - θ_start|² pulls them back to where the round
started.  In a package of yours, this line in pyproject.toml makes `leff run --method fedprox` work:

    [project.entry-points."leff.methods"]
    fedprox = "my_package.fedprox:SPEC"
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

import leff
from leff.methods.aggregate import merge_layers
from leff.methods.jobs import JobWriter
from leff.methods.method import Plan, RoundContext
from leff.methods.registry import MethodSpec, register, spec_of
from leff.methods.sums import Means
from leff.models import blocks
from leff.wire.messages import Capacity


class FedProx:
    name = "fedprox"

    def __init__(self, writer: JobWriter, mu: float) -> None:
        self._writer, self._mu = writer, mu

    def begin(self, model: nn.Module) -> None: ...

    def plan(self, model: nn.Module, context: RoundContext, reports: Sequence[Capacity]) -> Plan:
        step = replace(context.training.step, proximal=self._mu)
        context = replace(context, training=replace(context.training, step=step))
        layers = (self._writer.block(model, range(len(blocks(model)))),)
        segments = {report.client: layers for report in reports}
        return Plan(self._writer.jobs(self._writer.frame(model), context, segments))

    def merge(self, model: nn.Module, means: Means) -> None:
        merge_layers(model, means)

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None: ...


SPEC = MethodSpec("fedprox", lambda g: FedProx(g.writer, mu=0.1), spec_of("fedavg").stages)

if __name__ == "__main__":
    register(SPEC)
    print(leff.run(method="fedprox", rounds=2).after)
