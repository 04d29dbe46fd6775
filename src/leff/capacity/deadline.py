"""What a round of each candidate takes, and how many local steps of it are in time.

    limit = TimeLimit(30.0, 0.25, candidate_needs(sizes, found, asked), epochs=1, batch_size=16)
    limit.steps(found[0], device, examples=160)

Local steps shrink first: a candidate counts as in time if `min_share` of its steps are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from leff.capacity.candidates import Candidate
from leff.capacity.clock import Needs, Seconds, round_seconds, steps_within
from leff.capacity.footprint import Choice, Footprint, footprints
from leff.capacity.job_cost import steps_of
from leff.capacity.schedule import least_steps
from leff.capacity.sizes import FP32_BYTES, Sizes
from leff.wire.messages import Device


@dataclass(frozen=True)
class TimeLimit:
    """A round's deadline, None without one, and what a client's round takes by candidate."""

    seconds: float | None = None
    min_share: float = 1.0
    needs: Mapping[Candidate, Needs] = field(default_factory=dict)
    epochs: float = 1.0
    batch_size: int = 1

    def steps(self, candidate: Candidate, device: Device | None, examples: int) -> int:
        """Return how many local steps are in time; 0 or less if too few."""
        wanted = steps_of(self.epochs, self.batch_size, examples)
        if device is None or self.seconds is None:
            return wanted
        steps = steps_within(self.needs[candidate], device, self.seconds, wanted)
        return steps if steps >= least_steps(wanted, self.min_share) else -1

    def least_seconds(self, needs: Needs, device: Device, examples: int) -> float:
        """Return the shortest time in which a client may take part."""
        wanted = steps_of(self.epochs, self.batch_size, examples)
        return round_seconds(needs, device, least_steps(wanted, self.min_share)).total


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
        choice = candidate.choice(asked)
        each = [footprint_needs(place) for place in footprints(sizes, choice)]
        needs[candidate] = Needs(
            max(n.download_bytes for n in each),
            max(n.upload_bytes for n in each),
            max(n.step_flops for n in each),
        )
    return needs
