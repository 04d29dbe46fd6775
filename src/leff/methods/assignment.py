"""The number of layers that each client trains, and their context.

    assigned = AsReported(make_context("quantise", bits=8)).assign(model, reports)
    assigned[3].layers, assigned[3].context

`AsReported` takes the number of layers that each client reports.  `capacity.choose.ByBudget` takes
the candidate with the least error within the client's memory and time.
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
    """One client's block size and context; `name` goes into the round's record."""

    layers: int
    context: Context
    name: str = ""


class Assignment(Protocol):
    """Assigns a block size and a context to each client."""

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        """Return an assignment for each client that can train; the model is not changed."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return the tensors that a resumed run needs."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...


@dataclass(frozen=True)
class AsReported:
    """Assigns the number of layers that each client reports, and one context to all."""

    context: Context

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        return {report.client: Assigned(report.layers, self.context) for report in reports}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass
