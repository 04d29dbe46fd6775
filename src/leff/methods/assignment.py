"""How many layers each client trains, and in which context.

    assigned = AsReported(make_context("quantise", bits=8)).assign(model, reports)
    assigned[3].layers, assigned[3].context

`AsReported` goes by the layers that clients report.  `capacity.choose.ByBudget` takes for each
device what is nearest to the full model within its memory and time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from leff.methods.stand_ins import Context
from leff.wire.messages import Capacity


@dataclass(frozen=True)
class Assigned:
    """What one client gets: a block of `layers` layers in a context; `name` is for the record."""

    layers: int
    context: Context
    name: str = ""


class Assignment(Protocol):
    """Assigns block size and context to clients."""

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        """Return what every client gets that can do anything; the model stays as it is."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...


@dataclass(frozen=True)
class AsReported:
    """The number of layers that each client reports, and one context for all."""

    context: Context

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        return {report.client: Assigned(report.layers, self.context) for report in reports}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass
