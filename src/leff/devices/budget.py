"""What a client has room for: block and context, by its memory, its operations and its time.

    report = Capacity(client=0, layers=1, examples=160, memory_bytes=2 * 10**9)
    chosen = choose(found, assumed_errors, report, TimeLimit(), peaks)
    chosen.candidate.layers, chosen.candidate.setting, chosen.steps

A candidate fits the memory if its peak does with the step done the leanest way (`leff.cost.ways`).
Of those that fit, the least error is taken (`TOLERANCE` apart is equal), so exact layers with few
steps come before a distilled model with all of them: docs/stand-ins.md has the measurement.  Among
equal errors the most layer-steps win (layers of the block × steps in time), our own criterion: what
is trained in the time that there is; then the largest block, then the fewest bytes.

Peaks are estimates; that of the choice is rehearsed, and if it turns out too large the choice is
made again with that known.  Without a limit on memory nothing is rehearsed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from transformers import PretrainedConfig

from leff.context.auto import TOLERANCE, Candidate, assumed_errors, leaner_too
from leff.cost.footprint import Choice
from leff.cost.peaks import peaks_of
from leff.cost.prediction import fitted
from leff.cost.sizes import model_sizes
from leff.cost.workload import steps_of
from leff.devices.deadline import Chosen, TimeLimit
from leff.errors import ConfigError
from leff.families import empty_model
from leff.types import Capacity

Errors = Callable[[Sequence[Candidate]], Mapping[Candidate, float]]


class KnowsPeaks(Protocol):
    """Bytes of a candidate's step, done the leanest way: see `leff.cost.peaks.Peaks`."""

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
    return Chosen(best, steps[best], steps_of(limit.epochs, limit.batch_size, report.examples))


def _too_late(held: Sequence[Candidate], report: Capacity, limit: TimeLimit) -> ConfigError:
    assert report.device is not None  # else nothing is late
    times = (limit.least_seconds(limit.needs[c], report.device, report.examples) for c in held)
    return ConfigError(
        f"no client of this model does {limit.min_share:.0%} of its steps within "
        f"{limit.seconds:g} s on a {report.device.name}; the least that would do is "
        f"{min(times):.3g} s"
    )


def within(
    config: PretrainedConfig,
    kind: str,
    asked: Choice,
    memory_bytes: int | None = None,
    step_flops: int | None = None,
) -> tuple[Candidate, Choice]:
    """Return what is nearest to the full model within both budgets, and how its step is done.

    Errors are `assumed_errors`.  ConfigError, with the least that would do, if nothing fits.
    """
    found = leaner_too(model_sizes(empty_model(config, kind), kind), asked)
    report, peaks = Capacity(0, 1, 0, memory_bytes, step_flops), peaks_of(config, kind, asked)
    best = choose(found, assumed_errors, report, TimeLimit(), peaks).candidate
    return best, fitted(config, kind, "leff", best.choice(asked), memory_bytes)
