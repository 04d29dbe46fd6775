"""What a device's owner lets it tell in all: ε of every update that it sends.

    budget = Budget(home / "privacy.json", epsilon=8.0, delta=1e-5)
    fault = budget.fault(job)        # None, or why the job is not done
    budget.note(job)                 # before it is done

The device counts for itself, over all runs of its federation, since it does not trust its server.
An update tells as much as Gaussian noise of `job.noise` / 2 does: the device's data could have been
any other, which moves a clipped update by twice the clip.
"""

from pathlib import Path

from leff.files import read_json, write_json
from leff.privacy.gaussian import gaussian_epsilon
from leff.wire.messages import Job, MeasureJob

REFUSED = "its privacy budget does not allow the job; see limits.epsilon in its device.toml"


class Budget:
    """The noise of each update so far, on disk; without an `epsilon` nothing is counted."""

    def __init__(self, path: Path, epsilon: float | None, delta: float) -> None:
        """Raise CheckpointError if the file is damaged."""
        self._path, self._most, self._delta = path, epsilon, delta
        remedy = "this device does not know what it has told; delete it to begin anew"
        self._noises: list[float] = (read_json(path, remedy) or {"noises": []})["noises"]

    @property
    def spent(self) -> float:
        """ε of all updates so far."""
        return gaussian_epsilon(self._noises, self._delta)

    def fault(self, job: Job | MeasureJob) -> str | None:
        """Return why a job is not done: it tells more than noise, or would pass the budget."""
        if self._most is None:
            return None
        noise = job.noise / 2 if isinstance(job, Job) and job.clip and job.private else 0.0
        after = gaussian_epsilon([*self._noises, noise], self._delta)
        return REFUSED if after > self._most else None

    def note(self, job: Job) -> None:
        """Count a job; it is on disk when this returns."""
        if self._most is None:
            return
        self._noises.append(job.noise / 2)
        write_json(self._path, {"noises": self._noises})
