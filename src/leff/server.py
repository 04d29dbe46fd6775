"""The server's knowledge of its clients, and the checks of their updates.

    server = Server(store, Spool(folder), limits)
    server.open(model, jobs, reports)              # jobs go out
    update = server.receive(update)                # checked, on disk, perhaps refused
    jobs, updates = server.close()                 # in the order of client ids, without payloads

The server records which client holds which parts and whose memory ran out, for every engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from leff.capacity.schedule import Limits, with_peak
from leff.capacity.setbacks import Setbacks
from leff.methods.checks import expected_shapes, refusal
from leff.methods.setup import Shapes
from leff.wire.holdings import Holdings
from leff.wire.messages import Capacity, Job, Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool


class Server:
    """The server without the model and the method; `limits` is None if jobs have no limits."""

    def __init__(self, store: PartStore, spool: Spool, limits: Limits | None = None) -> None:
        self.store, self.spool, self.limits = store, spool, limits
        self.holdings, self._setbacks = Holdings(), Setbacks()
        self._jobs: dict[int, Job] = {}
        self._reports: dict[int, Capacity] = {}
        self._shapes: dict[int, Shapes] = {}
        self._downloads: dict[int, int] = {}

    def believed(self, reports: Sequence[Capacity]) -> list[Capacity]:
        """Return the clients' reports, lowered where a client's memory ran out before."""
        return [self._setbacks.applied(report) for report in reports]

    def open(self, model: nn.Module, jobs: Sequence[Job], reports: Sequence[Capacity]) -> None:
        """Start a round: forget the last one; note the jobs and each client's expected tensors."""
        self.spool.clear()
        self._jobs = {job.client: job for job in jobs}
        self._reports = {report.client: report for report in reports}
        self._shapes = {job.client: expected_shapes(model, job) for job in jobs}
        self._downloads = {job.client: self.holdings.send(job) for job in jobs}

    def receive(self, update: Update) -> Update:
        """Keep an update and return it with its download bytes; refuse what cannot be merged."""
        update = replace(update, download_bytes=self._downloads[update.client])
        if update.out_of_memory_bytes:
            update = self._lowered(update)
        reason = refusal(self._shapes[update.client], update)
        if reason is not None:
            update = replace(update, payload=b"", losses=None, failure=reason)
        self.spool.add(update)
        return update

    def close(self) -> tuple[dict[int, Job], list[Update]]:
        """Return the round's jobs by client, and its updates; drop the parts of earlier rounds."""
        self.store.keep({part.digest for job in self._jobs.values() for part in job.parts})
        return self._jobs, [update for _, update in sorted(self.spool.updates.items())]

    def _lowered(self, update: Update) -> Update:
        """Lower the client's limits, and add the predicted bytes to the failure's text."""
        job = self._jobs[update.client]
        if self.limits is not None:
            job = self._jobs[update.client] = with_peak(job, self.limits)
        self._setbacks.lower(job, self._reports[update.client])
        predicted = f"{job.predicted_bytes:,} bytes were predicted"
        return replace(update, failure=f"{update.failure}; {predicted}")

    def state(self) -> dict[str, Any]:
        """Return the holdings and the setbacks as JSON values, for a resumed run."""
        return {"holdings": self.holdings.state(), "setbacks": self._setbacks.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.holdings.load_state(state["holdings"])
        self._setbacks.load_state(state["setbacks"])
