"""The choice of a client's block and context, by its memory, its operations and its time.

    report = Capacity(client=0, layers=1, examples=160, memory_bytes=2 * 10**9)
    chosen = choose(tried, assumed_errors, report, TimeLimit(), peaks)
    chosen.candidate.layers, chosen.candidate.setting, chosen.steps

A candidate fits if the peak of its smallest step fits the memory (`leaner_steps`).  Of the
candidates that fit, the one with the least error wins.  Errors within `TOLERANCE` count as equal.
So exact layers with few steps win over a distilled model with all steps
(docs/understand/stand-ins.md has the measurement).  Among equal errors the most layer-steps win:
layers of the block × steps in time.
This criterion is our own.  Then the largest block wins, then the fewest bytes.

Peaks are estimates.  Only the chosen candidate is rehearsed.  If its peak is too large, the choice
is made again with the rehearsed peak.  Without a memory limit nothing is rehearsed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import nn

from leff.capacity.candidates import TOLERANCE, Candidate, Setting, measure
from leff.capacity.deadline import TimeLimit
from leff.errors import ConfigError
from leff.methods.assignment import Assigned
from leff.methods.stand_ins import Bank, Batch
from leff.wire.messages import Capacity

Errors = Callable[[Sequence[Candidate]], Mapping[Candidate, float]]


@dataclass(frozen=True)
class Chosen:
    """A candidate, its local steps in time, and the steps of its whole epochs (`wanted`)."""

    candidate: Candidate
    steps: int
    wanted: int


class KnowsPeaks(Protocol):
    """Peak bytes of a candidate's smallest step: `capacity.peak.Peaks`."""

    def estimate(self, candidate: Candidate) -> float: ...
    def exact(self, candidate: Candidate) -> int: ...


def choose(
    tried: Sequence[Candidate],
    errors: Errors,
    report: Capacity,
    limit: TimeLimit,
    peaks: KnowsPeaks,
) -> Chosen:
    """Return the best candidate and its steps, by the rules in the module's docstring.

    `errors` is called with the candidates that fit.  Raises ConfigError if none fits; it names the
    least operations, memory or time that would do.
    """
    known: dict[Candidate, int] = {}

    def peak(candidate: Candidate) -> float:
        return known[candidate] if candidate in known else peaks.estimate(candidate)

    def fits(candidate: Candidate) -> bool:
        return report.memory_bytes is None or peak(candidate) <= report.memory_bytes

    quick = _quick(tried, report)
    while True:
        able = [c for c in quick if limit.steps(c, report.device, report.examples) >= 0]
        fitting = _fitting(able, fits)
        if fitting:
            best = _best(fitting, errors(fitting), report, limit)
            if report.memory_bytes is None or best.candidate in known:
                return best
            least = best.candidate
        elif in_memory := [c for c in quick if fits(c)]:
            raise _too_late(in_memory, report, limit)
        elif (least := min(quick, key=peak)) in known:
            raise ConfigError(
                f"no client of this model trains within {report.memory_bytes:,} bytes; the least "
                f"that would do is {known[least]:,}, the peak of a step done example by example"
            )
        known[least] = peaks.exact(least)


def _quick(tried: Sequence[Candidate], report: Capacity) -> list[Candidate]:
    """Return the candidates within the client's operations per step; ConfigError if none is."""
    flops = report.step_flops
    quick = [c for c in tried if flops is None or c.step_flops <= flops]
    if not quick:
        raise ConfigError(
            f"no client of this model trains a step in {flops:.4g} operations; "
            f"the least that would do is {min(c.step_flops for c in tried):.4g}"
        )
    return quick


def _fitting(able: Sequence[Candidate], fits: Callable[[Candidate], bool]) -> list[Candidate]:
    """Return what fits, checkpointed if needed: with all layers if possible, else with fewer."""
    for keeps_all in (True, False):
        fitting: dict[tuple[int, Setting], Candidate] = {}
        for candidate in (c for c in able if c.setting.keeps_all == keeps_all):
            key = _kind(candidate)  # the variant without checkpointing comes first
            if key not in fitting and fits(candidate):
                fitting[key] = candidate
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
    return Chosen(best, steps[best], limit.wanted(best.step_flops, report.examples))


def _too_late(tried: Sequence[Candidate], report: Capacity, limit: TimeLimit) -> ConfigError:
    assert report.device is not None  # without a device there is no time limit
    times = (limit.least_seconds(limit.needs[c], report.device, report.examples) for c in tried)
    return ConfigError(
        f"no client of this model does {limit.min_share:.0%} of its steps within "
        f"{limit.seconds:g} s on a {report.device.name}; the least that would do is "
        f"{min(times):.3g} s"
    )


class ByBudget:
    """Assigns to each client the candidate that `choose` returns for its report.

    A device with room for all layers in few bits gets all layers.  In all our measurements this
    erred less than any distilled or dropped context (docs/LOG.md).  A candidate's error is measured
    on the proxy data in the round that first needs it, and kept, since the order of the contexts
    hardly changes during fine-tuning.  With `measured` False, for one context for all, nothing is
    measured.

    `limit` applies to devices of a fleet.  A device that no candidate fits gets nothing; nor does
    a client whose memory ran out before.  With `capped`, a client gets no more layers than it
    reports, and one that no candidate fits gets nothing.
    """

    def __init__(
        self,
        tried: Sequence[Candidate],
        bank: Bank,
        proxy: Sequence[Batch],
        peaks: KnowsPeaks,
        limit: TimeLimit | None = None,
        measured: bool = True,
        capped: bool = False,
    ) -> None:
        self._capped = capped
        self._tried, self._bank, self._proxy, self._peaks = list(tried), bank, proxy, peaks
        self._limit, self._measured = limit or TimeLimit(), measured
        self._errors: dict[tuple[int, Setting], float] = {}

    def assign(self, model: nn.Module, reports: Sequence[Capacity]) -> dict[int, Assigned]:
        """Return each client's block size and context.

        Raises ConfigError for a client outside a fleet whose budget no candidate fits.
        """
        assigned: dict[int, Assigned] = {}
        for report in reports:
            errors = partial(self._measure, model)
            try:
                most = report.layers if self._capped else math.inf
                tried = [candidate for candidate in self._tried if candidate.layers <= most]
                chosen = choose(tried, errors, report, self._limit, self._peaks)
            except ConfigError:
                fixed = report.device is None and report.failed_bytes is None
                if fixed and not self._capped:
                    raise
                continue
            layers, setting = _kind(chosen.candidate)
            assigned[report.client] = Assigned(layers, setting.context, str(setting))
        return assigned

    def _measure(self, model: nn.Module, tried: Sequence[Candidate]) -> dict[Candidate, float]:
        """Return the candidates' errors; measure and keep those that are not known yet."""
        if not self._measured:
            return dict.fromkeys(tried, 0.0)
        new = [c for c in tried if _kind(c) not in self._errors]
        if new:
            errors = measure(model, self._bank, new, self._proxy, decided={})
            self._errors |= {_kind(candidate): error for candidate, error in errors.items()}
        return {candidate: self._errors[_kind(candidate)] for candidate in tried}

    def state(self) -> dict[str, torch.Tensor]:
        """Return ``errors`` of the candidates in their order, NaN where not measured."""
        values = [self._errors.get(_kind(candidate), math.nan) for candidate in self._tried]
        return {"errors": torch.tensor(values, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        errors = cast("list[float]", state["errors"].tolist())  # pyright: ignore[reportUnknownMemberType]
        values = zip(self._tried, errors, strict=True)
        self._errors = {_kind(c): error for c, error in values if not math.isnan(error)}


def _kind(candidate: Candidate) -> tuple[int, Setting]:
    """Return what an error depends on; checkpointing does not change it."""
    return candidate.layers, candidate.setting
