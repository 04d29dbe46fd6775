"""What a client has room for: block and context, by its memory, its operations and its time.

    report = Capacity(client=0, layers=1, examples=160, memory_bytes=2 * 10**9)
    chosen = choose(found, assumed_errors, report, TimeLimit(), peaks)
    chosen.candidate.layers, chosen.candidate.setting, chosen.steps

A candidate fits the memory if the peak of its smallest step does (`leaner_steps`).  Of those that
fit, the least error is taken; errors that are `TOLERANCE` apart are equal.  So exact layers with
few steps come before a distilled model with all of them: docs/stand-ins.md has the measurement.
Among equal errors the most layer-steps win (layers of the block × steps in time): what is trained
in the time that there is.  That criterion is our own.  Then comes the largest block, then the
fewest bytes.

Peaks are estimates.  That of the choice is rehearsed, and if it is too large the choice is made
again with that known.  Without a limit on memory nothing is rehearsed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

from leff.capacity.candidates import (
    TOLERANCE,
    Candidate,
    Setting,
    measure,
)
from leff.capacity.deadline import TimeLimit
from leff.client.steps import step_count
from leff.errors import ConfigError
from leff.methods.assignment import Assigned
from leff.methods.stand_ins import Bank, Batch
from leff.wire.messages import Capacity

Errors = Callable[[Sequence[Candidate]], Mapping[Candidate, float]]


@dataclass(frozen=True)
class Chosen:
    """A candidate, the local steps that are in time, and those of the whole epochs."""

    candidate: Candidate
    steps: int
    wanted: int


class KnowsPeaks(Protocol):
    """Bytes of the variant of a candidate's step that holds least: `capacity.peak.Peaks`."""

    def estimate(self, candidate: Candidate) -> float: ...
    def exact(self, candidate: Candidate) -> int: ...


def choose(
    found: Sequence[Candidate],
    errors: Errors,
    report: Capacity,
    limit: TimeLimit,
    peaks: KnowsPeaks,
) -> Chosen:
    """Return the best candidate and its steps; see the module's text.

    `errors` is asked about those that fit.  Raises ConfigError with the least operations, memory or
    time that would do.
    """
    known: dict[Candidate, int] = {}

    def peak(candidate: Candidate) -> float:
        return known[candidate] if candidate in known else peaks.estimate(candidate)

    def fits(candidate: Candidate) -> bool:
        return report.memory_bytes is None or peak(candidate) <= report.memory_bytes

    quick = _quick(found, report)
    while True:
        able = [c for c in quick if limit.steps(c, report.device, report.examples) >= 0]
        fitting = _fitting(able, fits)
        if fitting:
            best = _best(fitting, errors(fitting), report, limit)
            if report.memory_bytes is None or best.candidate in known:
                return best
            least = best.candidate
        elif held := [c for c in quick if fits(c)]:
            raise _too_late(held, report, limit)
        elif (least := min(quick, key=peak)) in known:
            raise ConfigError(
                f"no client of this model trains within {report.memory_bytes:,} bytes; the least "
                f"that would do is {known[least]:,}, the peak of a step done example by example"
            )
        known[least] = peaks.exact(least)


def _quick(found: Sequence[Candidate], report: Capacity) -> list[Candidate]:
    """Return what is within the operations of a step; ConfigError if nothing is."""
    flops = report.step_flops
    quick = [c for c in found if flops is None or c.step_flops <= flops]
    if not quick:
        raise ConfigError(
            f"no client of this model trains a step in {flops:.4g} operations; "
            f"the least that would do is {min(c.step_flops for c in found):.4g}"
        )
    return quick


def _fitting(able: Sequence[Candidate], fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """Return what fits: those that keep all layers, if any do; checkpointed where need be."""
    for keeps_all in (True, False):
        fitting: dict[Any, Candidate] = {}
        for candidate in (c for c in able if c.setting.keeps_all == keeps_all):
            same = candidate.layers, candidate.setting  # the plain ones come first
            if same not in fitting and fits(candidate):
                fitting[same] = candidate
        if fitting:
            return list(fitting.values())
    return []


def _best(
    fitting: Sequence[Candidate],
    errors: Mapping[Candidate, float],
    report: Capacity,
    limit: TimeLimit,
) -> Chosen:
    bound = min(errors[c] for c in fitting) + TOLERANCE
    equal = [c for c in fitting if errors[c] <= bound]
    steps = {c: limit.steps(c, report.device, report.examples) for c in equal}
    best = min(steps, key=lambda c: (-c.layers * steps[c], -c.layers, c.state_bytes, c.step_flops))
    return Chosen(best, steps[best], step_count(limit.epochs, limit.batch_size, report.examples))


def _too_late(held: Sequence[Candidate], report: Capacity, limit: TimeLimit) -> ConfigError:
    assert report.device is not None  # else nothing is late
    times = (limit.least_seconds(limit.needs[c], report.device, report.examples) for c in held)
    return ConfigError(
        f"no client of this model does {limit.min_share:.0%} of its steps within "
        f"{limit.seconds:g} s on a {report.device.name}; the least that would do is "
        f"{min(times):.3g} s"
    )


class ByBudget:
    """Assigns the least error that fits what a client reports, by `choose`.

    A device that has room for all layers in few bits gets them so.  Wherever we measured, that was
    truer than any distilled or dropped context (docs/LOG.md), which are left for those that have
    not.  A candidate's error is measured on the proxy data in the round that first needs it, and
    kept: which context is truest hardly changes while a model is fine-tuned.  Nothing is measured
    where there is one context for all, which is not `measured`.

    Devices of a fleet choose by `limit` too.  A device that nothing fits is left out, and so is a
    client whose memory has run out before.
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

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        """Return what the clients get.

        Raises ConfigError for a budget that nothing fits, where there is no fleet file.
        """
        assigned: dict[int, Assigned] = {}
        for report in reports:
            try:
                best = self._best(model, report)
            except ConfigError:
                if report.device is None and report.failed_bytes is None:
                    raise
                continue
            setting = best.setting
            assigned[report.client] = Assigned(best.layers, setting.context, str(setting))
        return assigned

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
        errors = cast("list[float]", state["errors"].tolist())  # pyright: ignore[reportUnknownMemberType]
        values = zip(self._found, errors, strict=True)
        self._errors = {_kind(c): error for c, error in values if not math.isnan(error)}


def _kind(candidate: Candidate) -> tuple[int, Setting]:
    """Return what an error depends on: checkpointed or not, it is the same."""
    return candidate.layers, candidate.setting
