"""What a round of each candidate takes, and how many local steps of it are in time.

    limit = TimeLimit(30.0, 0.25, candidate_needs(sizes, found, asked), epochs=1, batch_size=16)
    limit.steps(found[0], device, examples=160)

Local steps shrink first.  A candidate counts as in time if `min_share` of its steps are.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from leff.capacity.candidates import Candidate
from leff.capacity.clock import Needs, round_seconds, steps_within
from leff.capacity.footprint import Footprint, footprint
from leff.capacity.sizes import Sizes
from leff.client.steps import step_count
from leff.methods.setup import ClientSetup, block_layouts
from leff.wire.messages import Device


@dataclass(frozen=True)
class TimeLimit:
    """A round's deadline, None without one, and what a client's round takes by candidate."""

    seconds: float | None = None
    min_share: float = 1.0
    needs: Mapping[Candidate, Needs] = field(default_factory=dict[Candidate, Needs])
    epochs: float = 1.0
    batch_size: int = 1

    def steps(self, candidate: Candidate, device: Device | None, examples: int) -> int:
        """Return how many local steps are in time; 0 or less if too few."""
        wanted = step_count(self.epochs, self.batch_size, examples)
        if device is None or self.seconds is None:
            return wanted
        steps = steps_within(self.needs[candidate], device, self.seconds, wanted)
        return steps if steps >= least_steps(wanted, self.min_share) else -1

    def least_seconds(self, needs: Needs, device: Device, examples: int) -> float:
        """Return the shortest time in which a client may take part."""
        wanted = step_count(self.epochs, self.batch_size, examples)
        return round_seconds(needs, device, least_steps(wanted, self.min_share)).total


def least_steps(wanted: int, min_share: float) -> int:
    """Return the fewest steps that a client takes part with, at least one if it has any."""
    return math.ceil(round(min_share * wanted, 9))


def footprint_needs(found: Footprint) -> Needs:
    """Return what a round takes that has this footprint; headers of files are left out."""
    return Needs(found.download_bytes, found.upload_bytes, found.step_flops)


def candidate_needs(
    sizes: Sizes, candidates: Iterable[Candidate], asked: ClientSetup
) -> dict[Candidate, Needs]:
    """Return the most that a round of each candidate takes, over all places of the block."""
    needs: dict[Candidate, Needs] = {}
    for candidate in candidates:
        setup = candidate.setup(asked)
        layouts = block_layouts(setup, len(sizes.layers))
        each = [footprint(sizes, layout, setup) for layout in layouts]
        needs[candidate] = Needs(
            max(n.download_bytes for n in each),
            max(n.upload_bytes for n in each),
            max(n.step_flops for n in each),
        )
    return needs
