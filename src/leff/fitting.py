"""How many layers each client trains, and in which context: as configured, or by its budget.

    fits = Fixed(make_context("quantise", bits=8)).fit(model, reports)
    fits[3].layers, fits[3].context

`Auto` takes for each device what is nearest to the full model within its memory and time, see
`leff.context.auto`.  A block that is larger, or a context that is truer, is all that a budget buys.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from leff.context import Bank, Batch, Context
from leff.context.auto import Candidate, Setting, measure
from leff.devices.budget import KnowsPeaks, choose
from leff.devices.deadline import TimeLimit
from leff.errors import ConfigError
from leff.types import Capacity


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


class Auto:
    """The least error that fits what a client reports: `leff.devices.budget.choose`.

    A device that has room for all layers in few bits gets them so: wherever we measured, that was
    truer than any distilled or dropped context (docs/LOG.md), which are left for those that have
    not.  A candidate's error is measured on the proxy data in the round that first needs it, and
    kept: which context is truest hardly changes while a model is fine-tuned.  Not where there is
    one context for all, which is not `measured`.

    Devices of a fleet choose by `limit` too.  One of them that nothing fits is left out, and so is
    a client whose memory has run out before.
    """

    def __init__(
        self,
        found: Sequence[Candidate],
        bank: Bank,
        proxy: Sequence[Batch],
        peaks: KnowsPeaks,
        limit: TimeLimit | None = None,
        measured: bool = True,
    ) -> None:
        self._found, self._bank, self._proxy, self._peaks = list(found), bank, proxy, peaks
        self._limit, self._measured = limit or TimeLimit(), measured
        self._errors: dict[tuple[int, Setting], float] = {}

    def fit(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Fit]:
        """Return the clients' fits.

        Raises ConfigError for a budget that nothing fits, where there is no fleet file.
        """
        fits = {}
        for report in reports:
            try:
                best = self._best(model, report)
            except ConfigError:
                if report.device is None and report.failed_bytes is None:
                    raise
                continue
            fits[report.client] = Fit(best.layers, best.setting.context, str(best.setting))
        return fits

    def _best(self, model: nn.Module, report: Capacity) -> Candidate:
        def errors(found: Sequence[Candidate]) -> dict[Candidate, float]:
            return self._measure(model, found)

        return choose(self._found, errors, report, self._limit, self._peaks).candidate

    def _measure(self, model: nn.Module, found: Sequence[Candidate]) -> dict[Candidate, float]:
        """Return the errors, of which those that are not known are measured."""
        if not self._measured:
            return dict.fromkeys(found, 0.0)
        new = [c for c in found if _kind(c) not in self._errors]
        if new:
            made = measure(model, self._bank, new, self._proxy, decided={})
            self._errors |= {_kind(candidate): error for candidate, error in made.items()}
        return {candidate: self._errors[_kind(candidate)] for candidate in found}

    def state(self) -> dict[str, torch.Tensor]:
        """Return ``errors`` of the candidates in their order, NaN where not measured."""
        values = [self._errors.get(_kind(candidate), math.nan) for candidate in self._found]
        return {"errors": torch.tensor(values, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        values = zip(self._found, state["errors"].tolist(), strict=True)
        self._errors = {_kind(c): error for c, error in values if not math.isnan(error)}


def _kind(candidate: Candidate) -> tuple[int, Setting]:
    """Return what an error depends on: checkpointed or not, it is the same."""
    return candidate.layers, candidate.setting
