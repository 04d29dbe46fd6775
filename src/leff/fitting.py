"""How many layers each client trains, and in which context: as configured, or by its budget.

    fits = Fixed(make_context("quantise", bits=8)).fit(model, reports)
    fits[3].layers, fits[3].context

`Auto` takes for each device what is nearest to the full model within its memory and time, see
`leff.context.auto`.  A block that is larger, or a context that is truer, is all that a budget buys.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch
from torch import nn

from leff.context import Bank, Batch, Context
from leff.context.auto import Candidate, choose, measure
from leff.deadline import TimeLimit, choose_in_time, room
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
    """The least error that fits the memory and the operations that a client reports.

    A device that has room for all layers in few bits gets them so: wherever we measured, that was
    truer than any distilled or dropped context (docs/LOG.md), which are left for those that have
    not.  A candidate's error is measured on the proxy data in the round that first needs it, and
    kept: which context is truest hardly changes while a model is fine-tuned.  `errors` may say
    some beforehand, which are then not measured: with one context for all there is no need to.

    Devices of a fleet choose by `limit` too.  One of them that nothing fits is left out, and so is
    a client whose memory has run out before.
    """

    def __init__(
        self,
        found: Sequence[Candidate],
        bank: Bank,
        proxy: Sequence[Batch],
        limit: TimeLimit | None = None,
        errors: Mapping[Candidate, float] = MappingProxyType({}),
    ) -> None:
        self._found, self._bank, self._proxy = list(found), bank, proxy
        self._limit = limit or TimeLimit(None, 1.0, {}, 1.0, 1)
        self._errors: dict[Candidate, float] = dict(errors)

    def fit(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Fit]:
        """Return the clients' fits.

        Raises ConfigError for a budget that nothing fits, where there is no fleet file.
        """
        rooms = {report.client: self._room(report) for report in reports}
        wanted = {candidate for room in rooms.values() for candidate in room}
        new = [c for c in self._found if c in wanted and c not in self._errors]
        if new:
            self._errors |= measure(model, self._bank, new, self._proxy, decided={})
        return {
            report.client: self._best(report, rooms[report.client])
            for report in reports
            if rooms[report.client] or (report.device is None and report.failed_bytes is None)
        }

    def _best(self, report: Capacity, found: Sequence[Candidate]) -> Fit:
        memory, examples = report.memory_bytes, report.examples
        if report.device is not None:
            best = choose_in_time(
                found, self._errors, report.device, examples, self._limit, memory
            ).candidate
        else:
            best = choose(found or self._found, self._errors, memory, report.step_flops)
        return Fit(best.layers, best.setting.context, str(best.setting))

    def _room(self, report: Capacity) -> list[Candidate]:
        return room(
            self._found,
            report.device,
            report.examples,
            self._limit,
            report.memory_bytes,
            report.step_flops,
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Return ``errors`` of the candidates in their order, NaN where not measured."""
        values = [self._errors.get(candidate, math.nan) for candidate in self._found]
        return {"errors": torch.tensor(values, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        values = zip(self._found, state["errors"].tolist(), strict=True)
        self._errors = {candidate: e for candidate, e in values if not math.isnan(e)}
