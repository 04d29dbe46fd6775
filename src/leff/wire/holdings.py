"""Which parts each client holds, as the server knows it.

holdings.missing(job)       # the parts that the client does not hold yet, by digest
holdings.send(job)          # their bytes; from now on it holds the job's parts

A client holds the parts of its last training job, and those of the last model that it measured.
"""

from collections.abc import Mapping, Sequence

from leff.wire.messages import Job, MeasureJob, Part


class Holdings:
    """Digests of parts by client, and by what they were sent for."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, list[str]]] = {}

    def missing(self, job: Job | MeasureJob) -> dict[str, Part]:
        """Return the parts of a job, by digest, that its client does not hold."""
        held = {each for kind in self._held.get(job.client, {}).values() for each in kind}
        return {part.digest: part for part in job.parts if part.digest not in held}

    def send(self, job: Job | MeasureJob) -> int:
        """Note that the client is sent the job; return the bytes of the parts that it lacked."""
        needed = sum(part.size_bytes for part in self.missing(job).values())
        purpose = "train" if isinstance(job, Job) else "measure"
        digests = sorted({part.digest for part in job.parts})
        self._held.setdefault(job.client, {})[purpose] = digests
        return needed

    def state(self) -> dict[str, dict[str, list[str]]]:
        """Return what a resumed run needs, as JSON values."""
        return {str(client): dict(own) for client, own in self._held.items()}

    def load_state(self, state: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """Put `state()`'s values back."""
        self._held = {
            int(client): {purpose: list(digests) for purpose, digests in own.items()}
            for client, own in state.items()
        }
