"""The server's memory of clients that ran out of memory, and the lower limits for them since.

    setbacks.lower(job, report)          # memory ran out in this job
    setbacks.applied(report)             # the client's next report, lowered

Such a client's memory counts as less than the failed job's predicted peak.  If the client reports
no memory, its block has one layer fewer from then on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leff.wire.messages import Capacity, Job


class Setbacks:
    """Out-of-memory failures by client."""

    def __init__(self) -> None:
        self._failed_bytes: dict[int, int] = {}  # the smallest predicted peak of a failed job
        self._layers: dict[int, int] = {}  # the most layers that the client may still get

    def applied(self, report: Capacity) -> Capacity:
        """Return a client's report with the lower limits that its failures set."""
        layers = min(report.layers, self._layers.get(report.client, report.layers))
        failed, memory_bytes = self._failed_bytes.get(report.client), report.memory_bytes
        if failed is not None and memory_bytes is not None:
            memory_bytes = min(memory_bytes, failed - 1)
        return replace(report, layers=layers, memory_bytes=memory_bytes, failed_bytes=failed)

    def lower(self, job: Job, report: Capacity) -> None:
        """Lower a client's limits, because its memory ran out in this job."""
        client, predicted = job.client, job.predicted_bytes
        if predicted:
            self._failed_bytes[client] = min(predicted, self._failed_bytes.get(client, predicted))
        if report.memory_bytes is None and job.tuned is None:
            self._layers[client] = max(1, len(job.block) - 1)

    def state(self) -> dict[str, Any]:
        """Return the lower limits as JSON values, for a resumed run."""
        limits = {"failed_bytes": self._failed_bytes, "layers": self._layers}
        return {name: {str(client): n for client, n in own.items()} for name, own in limits.items()}

    def load_state(self, state: Mapping[str, Mapping[str, int]]) -> None:
        self._failed_bytes = {int(client): n for client, n in state["failed_bytes"].items()}
        self._layers = {int(client): n for client, n in state["layers"].items()}
