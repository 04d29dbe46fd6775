"""Block, context and local steps for a device that has only so much time in a round.

    needs = candidate_needs(sizes, found, asked)
    limit = TimeLimit(30.0, min_share=0.25, needs=needs, epochs=1, batch_size=16)
    chosen = choose_in_time(found, errors, device, examples=160, limit=limit)
    chosen.candidate.layers, chosen.steps

Local steps shrink first: a candidate counts as in time if `min_share` of its steps are.  Of those
the least error is taken (`context.auto.TOLERANCE` apart is equal), so exact layers with few steps
come before a distilled model with all of them: docs/stand-ins.md has the measurement.  Among equal
errors the most layer-steps win (layers of the block × steps in time), our own criterion: what is
trained in the time that there is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from leff.clock import Needs, Seconds, round_seconds, steps_within
from leff.context.auto import TOLERANCE, Candidate, choose
from leff.devices import Device
from leff.errors import ConfigError
from leff.footprint import Choice, Footprint, footprints
from leff.pace import least_steps
from leff.sizes import FP32_BYTES, Sizes
from leff.workload import steps_of


@dataclass(frozen=True)
class TimeLimit:
    """A round's deadline, None without one, and what a client's round takes by candidate."""

    seconds: float | None
    min_share: float
    needs: Mapping[Candidate, Needs]
    epochs: float
    batch_size: int

    def steps(self, candidate: Candidate, device: Device | None, examples: int) -> int:
        """Return how many local steps are in time; 0 or less if too few."""
        wanted = steps_of(self.epochs, self.batch_size, examples)
        if device is None or self.seconds is None:
            return wanted
        steps = steps_within(self.needs[candidate], device, self.seconds, wanted)
        return steps if steps >= least_steps(wanted, self.min_share) else -1

    def least_seconds(self, candidate: Candidate, device: Device, examples: int) -> float:
        """Return the shortest time in which the client may take part."""
        wanted = steps_of(self.epochs, self.batch_size, examples)
        least = least_steps(wanted, self.min_share)
        return round_seconds(self.needs[candidate], device, least).total


@dataclass(frozen=True)
class Chosen:
    """A candidate, the local steps that are in time, and those of the whole epochs."""

    candidate: Candidate
    steps: int
    wanted: int

    def seconds(self, limit: TimeLimit, device: Device) -> Seconds:
        return round_seconds(limit.needs[self.candidate], device, self.steps)


def footprint_needs(footprint: Footprint) -> Needs:
    """Return what a round takes that has this footprint; headers of files are left out."""
    upload = footprint.trainable_parameters * FP32_BYTES
    return Needs(footprint.download_bytes, upload, footprint.step_flops)


def candidate_needs(
    sizes: Sizes, found: Iterable[Candidate], asked: Choice
) -> dict[Candidate, Needs]:
    """Return the most that a round of each candidate takes, over all places of the block."""
    needs = {}
    for candidate in found:
        choice = replace(asked, layers=candidate.layers, context=candidate.setting.context)
        each = [footprint_needs(place) for place in footprints(sizes, choice)]
        needs[candidate] = Needs(
            max(n.download_bytes for n in each),
            max(n.upload_bytes for n in each),
            max(n.step_flops for n in each),
        )
    return needs


def room(
    found: Sequence[Candidate],
    device: Device | None,
    examples: int,
    limit: TimeLimit,
    memory_bytes: int | None,
    step_flops: int | None = None,
) -> list[Candidate]:
    """Return the candidates within memory and time: those that keep all layers, if any do."""
    fitting = [
        c
        for c in found
        if (memory_bytes is None or c.state_bytes <= memory_bytes)
        and (step_flops is None or c.step_flops <= step_flops)
        and limit.steps(c, device, examples) >= 0
    ]
    return [c for c in fitting if c.setting.keeps_all] or fitting


def choose_in_time(
    found: Sequence[Candidate],
    errors: Mapping[Candidate, float],
    device: Device,
    examples: int,
    limit: TimeLimit,
    memory_bytes: int | None = None,
) -> Chosen:
    """Return the best candidate and its steps; see the module's text.

    Raises ConfigError with the least memory, or the least time, that would do.
    """
    memory = device.memory_bytes if memory_bytes is None else memory_bytes
    fitting = room(found, device, examples, limit, memory)
    if not fitting:
        choose(found, dict.fromkeys(found, 0.0), memory)  # says the least memory
        held = [c for c in found if c.state_bytes <= memory]
        least = min(limit.least_seconds(c, device, examples) for c in held)
        raise ConfigError(
            f"no client of this model does {limit.min_share:.0%} of its steps within "
            f"{limit.seconds:g} s on a {device.name}; the least that would do is {least:.3g} s"
        )
    bound = min(errors[c] for c in fitting) + TOLERANCE
    steps = {c: limit.steps(c, device, examples) for c in fitting if errors[c] <= bound}
    best = min(steps, key=lambda c: (-c.layers * steps[c], -c.layers, c.state_bytes, c.step_flops))
    return Chosen(best, steps[best], steps_of(limit.epochs, limit.batch_size, examples))
