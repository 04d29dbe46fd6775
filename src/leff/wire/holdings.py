"""Which parts each client holds, as the server knows it: those of its last job.

holdings.missing(job)       # the parts that the client does not hold yet, by digest
holdings.send(job)          # their bytes; from now on it holds the job's parts
"""

from collections.abc import Mapping, Sequence

from leff.wire.messages import Job, Part


class Holdings:
    """Digests of parts by client."""

    def __init__(self) -> None:
        self._held: dict[int, list[str]] = {}

    def missing(self, job: Job) -> dict[str, Part]:
        """Return the parts of a job, by digest, that its client does not hold."""
        held = set(self._held.get(job.client, ()))
        return {part.digest: part for part in job.parts if part.digest not in held}

    def send(self, job: Job) -> int:
        """Note that the client is sent the job; return the bytes of the parts that it lacked."""
        needed = sum(part.size_bytes for part in self.missing(job).values())
        self._held[job.client] = sorted({part.digest for part in job.parts})
        return needed

    def state(self) -> dict[str, list[str]]:
        """Return what a resumed run needs, as JSON values."""
        return {str(client): digests for client, digests in self._held.items()}

    def load_state(self, state: Mapping[str, Sequence[str]]) -> None:
        """Put `state()`'s values back."""
        self._held = {int(client): list(digests) for client, digests in state.items()}
