"""What the server knows of clients whose memory ran out, and what it takes them for since.

    setbacks.lower(job, report)          # memory ran out in this job
    setbacks.applied(report)             # the client's next report, lowered

The memory of such a client counts as less than was predicted for that job.  If it reports none, its
block has a layer fewer from then on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from leff.wire.messages import Capacity, Job


class Setbacks:
    """Failures for want of memory, by client."""

    def __init__(self) -> None:
        self._failed_bytes: dict[int, int] = {}  # the least peak predicted for a job that failed
        self._layers: dict[int, int] = {}  # what the client is left with

    def applied(self, report: Capacity) -> Capacity:
        """Return a client's report as the server takes it."""
        layers = min(report.layers, self._layers.get(report.client, report.layers))
        failed, memory_bytes = self._failed_bytes.get(report.client), report.memory_bytes
        if failed is not None and memory_bytes is not None:
            memory_bytes = min(memory_bytes, failed - 1)
        return replace(report, layers=layers, memory_bytes=memory_bytes, failed_bytes=failed)

    def lower(self, job: Job, report: Capacity) -> None:
        """Take a client for less from now on, as its memory ran out in this job."""
        client, predicted = job.client, job.predicted_bytes
        if predicted:
            self._failed_bytes[client] = min(predicted, self._failed_bytes.get(client, predicted))
        if report.memory_bytes is None and job.tuned is None:
            self._layers[client] = max(1, len(job.block) - 1)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""
        by_name = {"failed_bytes": self._failed_bytes, "layers": self._layers}
        return {
            name: {str(client): value for client, value in own.items()}
            for name, own in by_name.items()
        }

    def load_state(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Put `state()`'s values back."""
        self._failed_bytes = {int(client): n for client, n in state["failed_bytes"].items()}
        self._layers = {int(client): n for client, n in state["layers"].items()}
