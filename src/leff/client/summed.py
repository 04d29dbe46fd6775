"""A client's part in the secure sum of a round: it holds its update, and answers each phase.

    own = Held(job, update.payload, first_values(job, fetch))
    keys = own.answer(Invitation(7))
    shares = own.answer(SumRoster(roster, names))      # then Boxes, then Survivors

What training changed was clipped before, as the job says.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from leff.errors import SecureSumError
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.secure_messages import Boxes, Invitation, SumAnswer, SumAsk, SumRoster
from leff.privacy.secure_sums import SecureClient
from leff.wire.messages import Job
from leff.wire.tensors import Payload, one_by_one


class Held:
    """One client's update of one round, which leaves it under masks only."""

    def __init__(self, job: Job, payload: Payload, start: Mapping[str, torch.Tensor]) -> None:
        self._job, self._payload, self._start = job, payload, start
        self._client = SecureClient(job.client, job.round)
        self._asked: SumRoster | None = None

    def answer(self, ask: SumAsk) -> SumAnswer:
        """Return the answer to a phase.  SecureSumError for one that is out of order or unsafe."""
        if isinstance(ask, Invitation):
            return self._client.advertise()
        if isinstance(ask, SumRoster):
            self._asked = ask
            return self._client.share(ask.roster)
        if isinstance(ask, Boxes):
            return self._client.mask(ask, self._encoded())
        return self._client.unmask(ask)

    def _encoded(self) -> dict[str, NDArray[np.uint32]]:
        """Return the values of each group that this client trains."""
        if self._asked is None:
            raise SecureSumError(
                f"client {self._job.client} was asked for values before the roster"
            )
        roster, read = self._asked.roster, one_by_one(self._payload)
        fixed = FixedPoint(self._job.clip, len(roster.keys))
        return {
            name: np.concatenate([fixed.encode(self._change(read(n), n)) for n in tensors])
            for name, tensors in self._asked.tensors.items()
            if self._job.client in roster.groups[name].cohort
        }

    def _change(self, own: torch.Tensor, name: str) -> NDArray[np.float64]:
        return (own.double() - self._start[name].detach().cpu().double()).flatten().numpy()
