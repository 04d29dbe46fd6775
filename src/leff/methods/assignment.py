"""How many layers each client trains, and in which context: as configured, or by its budget.

    fits = Fixed(make_context("quantise", bits=8)).fit(model, reports)
    fits[3].layers, fits[3].context

`Auto` takes for each device what is nearest to the full model within its memory and time, see
`capacity.choose`.  A block that is larger, or a context that is truer, is all that a budget buys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from leff.methods.stand_ins import Context
from leff.wire.messages import Capacity


@dataclass(frozen=True)
class Fit:
    """What one client gets: a block of `layers` layers in a context; `name` is for the record."""

    layers: int
    context: Context
    name: str = ""


class Fitting(Protocol):
    """Fits block and context to clients."""

    def fit(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Fit]:
        """Return what every client gets that can do anything; the model stays as it is."""
        ...

    def state(self) -> dict[str, torch.Tensor]:
        """Return what a resumed run needs."""
        ...

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put `state()`'s tensors back."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The number of layers that each client reports, and one context for all."""

    context: Context

    def fit(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Fit]:
        return {report.client: Fit(report.layers, self.context) for report in reports}

    def state(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        pass
