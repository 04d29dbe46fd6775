"""Deadlines: the bytes and operations of each candidate's round, and its local steps in time.

    limit = TimeLimit(30.0, 0.25, candidate_needs(sizes, tried, asked), epochs=1, batch_size=16)
    limit.steps(tried[0], device, examples=160)

A candidate that is too slow takes fewer local steps.  It is in time with `min_share` of its steps.
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
    """A round's deadline in seconds, or None, and the needs of a client's round by candidate.

    With `full_flops`, local steps are as many as take the operations of `epochs` of such steps.
    """

    seconds: float | None = None
    min_share: float = 1.0
    needs: Mapping[Candidate, Needs] = field(default_factory=dict[Candidate, Needs])
    epochs: float = 1.0
    batch_size: int = 1
    full_flops: int = 0

    def wanted(self, flops: int, examples: int) -> int:
        """Return the number of local steps, each of so many operations, without a deadline."""
        return steps_of_full(
            step_count(self.epochs, self.batch_size, examples), flops, self.full_flops
        )

    def steps(self, candidate: Candidate, device: Device | None, examples: int) -> int:
        """Return the number of local steps in time; -1 if they are too few."""
        wanted = self.wanted(candidate.step_flops, examples)
        if device is None or self.seconds is None:
            return wanted
        steps = steps_within(self.needs[candidate], device, self.seconds, wanted)
        return steps if steps >= least_steps(wanted, self.min_share) else -1

    def least_seconds(self, needs: Needs, device: Device, examples: int) -> float:
        """Return the seconds of a round with the fewest steps that a client may do."""
        wanted = self.wanted(needs.step_flops, examples)
        return round_seconds(needs, device, least_steps(wanted, self.min_share)).total


def steps_of_full(steps: int, flops: int, full_flops: int) -> int:
    """Return how many steps of `flops` take the operations of `steps` steps of `full_flops`.

    It is one at least, if there is one.  With 0 `full_flops` it is `steps`.
    """
    return max(min(steps, 1), steps * full_flops // flops) if full_flops else steps


def least_steps(wanted: int, min_share: float) -> int:
    """Return the fewest steps with which a client takes part, at least one if it has any."""
    return math.ceil(round(min_share * wanted, 9))


def footprint_needs(cost: Footprint) -> Needs:
    """Return the needs of a round with this footprint; file headers are left out."""
    return Needs(cost.download_bytes, cost.upload_bytes, cost.step_flops)


def candidate_needs(
    sizes: Sizes, candidates: Iterable[Candidate], asked: ClientSetup
) -> dict[Candidate, Needs]:
    """Return the largest needs of each candidate's round, over all places of its block."""
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
