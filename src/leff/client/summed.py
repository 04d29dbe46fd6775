"""A client's part in the secure sum of a round: it holds its update, and answers each phase.

    own = Held(job, update.payload, lambda: first_values(job, fetch))
    keys = own.answer(Invitation(7, "5f2c"))
    shares = own.answer(roster)                        # then Boxes, then Survivors

What training changed is clipped to the job's norm, over all tensors of its groups together.
"""

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from leff.errors import SecureSumError
from leff.privacy.clipping import clip_factor
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.secure_client import ClientState
from leff.privacy.secure_messages import (
    Boxes,
    Invitation,
    Roster,
    SumAnswer,
    SumAsk,
    groups_of,
    opened,
)
from leff.privacy.secure_sums import SecureClient
from leff.wire.messages import Job
from leff.wire.tensors import Payload, one_by_one, shapes_of


class Held:
    """One client's update of one round, which leaves it under masks only."""

    def __init__(
        self,
        job: Job,
        payload: Payload,
        start: Callable[[], Mapping[str, torch.Tensor]],
        least_cohort: int = 2,
        state: ClientState | None = None,
    ) -> None:
        """`start` gives the values that training started with, and is called if it is needed.

        With a `state`, it goes on where another one ended.
        """
        self.job, self.payload, self.start = job, payload, start
        self._least_cohort = least_cohort
        self._client = self._fresh() if state is None else SecureClient.of(state)

    def _fresh(self) -> SecureClient:
        return SecureClient(self.job.client, self.job.round, self._least_cohort)

    @property
    def state(self) -> ClientState:
        """What it knows of the sum: secrets, so for itself alone."""
        return self._client.state

    def opened(self, left: Collection[int]) -> list[tuple[list[str], list[int]]]:
        """Return the tensors of each group that is opened if these are left, with its clients."""
        groups = self.state.roster.groups
        found = opened(groups, left, self.state.roster.least_cohort)
        return sorted((list(groups[name].tensors), list(own)) for name, own in found.items())

    def answer(self, ask: SumAsk) -> SumAnswer:
        """Return the answer to a phase.  SecureSumError for one that is out of order or unsafe."""
        if isinstance(ask, Invitation):
            self._client = self._fresh()
            return self._client.advertise()
        if isinstance(ask, Roster):
            self._check_tensors(ask)
            return self._client.share(ask)
        if isinstance(ask, Boxes):
            return self._client.mask(ask, self._encoded())
        return self._client.unmask(ask)

    def _check_tensors(self, roster: Roster) -> None:
        """Raise SecureSumError unless the groups are of tensors that this client trains.

        Each may be in one group only: two sums of a tensor, over other cohorts, tell of one client.
        """
        client, shapes, seen = self.job.client, shapes_of(self.payload), set[str]()
        for name, group in groups_of(client, roster.groups).items():
            values = sum(math.prod(shapes[each]) for each in group.tensors if each in shapes)
            if values != group.size or not shapes.keys() >= set(group.tensors):
                raise SecureSumError(
                    f"group {name} has {group.size} values of {', '.join(group.tensors)}, of which "
                    f"client {client} trains {values}"
                )
            if len(seen | set(group.tensors)) < len(seen) + len(group.tensors):
                raise SecureSumError(f"a tensor of group {name} comes twice for client {client}")
            seen |= set(group.tensors)

    def _encoded(self) -> dict[str, NDArray[np.uint32]]:
        """Return the values of each group that this client trains."""
        roster = self._client.state.roster
        own = groups_of(self.job.client, roster.groups)
        read, start = one_by_one(self.payload), self.start()
        fixed = FixedPoint(self.job.clip, roster.room)

        def change(name: str) -> NDArray[np.float64]:
            return (read(name).double() - start[name].detach().cpu().double()).flatten().numpy()

        names = [name for group in own.values() for name in group.tensors]
        norm = math.sqrt(math.fsum(float(np.square(change(name)).sum()) for name in names))
        factor = clip_factor(norm, self.job.clip)
        return {
            name: np.concatenate([fixed.encode(change(each) * factor) for each in group.tensors])
            for name, group in own.items()
        }
