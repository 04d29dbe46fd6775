"""The engine `local`: all clients on this machine, a few at a time, no server needed.

    fleet = LocalFleet(client_examples, capacities, store, torch.device("cpu"), workers=2)
    updates = list(fleet.train(plan.jobs))

With one worker, clients run in this process, one after another; with more, in as many processes
of one torch thread count each, and the updates arrive in any order.  The result is the same.  A
client keeps the parts of its last job, and downloads only those of the next that differ; the
engine counts those bytes.  As many client models are in memory as there are workers.
"""

import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import torch

from leff import client
from leff.data.encode import Example
from leff.errors import LeffError, RunError
from leff.parts import PartStore
from leff.types import Capacity, Job, Update

log = logging.getLogger("leff.engines")


class LocalFleet:
    """Clients by id: their examples, and what each can fine-tune.

    `budgets` are their bytes of training state and operations of a step, where they have any.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[Example]],
        capacities: Sequence[int],
        store: PartStore,
        device: torch.device,
        workers: int = 1,
        budgets: Sequence[tuple[int | None, int | None]] = (),
    ) -> None:
        self.size = len(examples)
        self._budgets = budgets or [(None, None)] * len(examples)
        self._examples, self._capacities = examples, capacities
        self._store, self._device, self._workers = store, device, workers
        self._held: dict[int, list[str]] = {}  # client -> digests of its last job's parts

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        return [
            client.report(i, self._capacities[i], self._examples[i], *self._budgets[i])
            for i in clients
        ]

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Yield the jobs' updates as they are done, then drop the parts of earlier rounds."""
        downloads = {job.client: self._download(job) for job in jobs}
        for update in self._updates(jobs):
            yield replace(update, download_bytes=downloads[update.client])
        self._store.keep({part.digest for job in jobs for part in job.parts})

    def _updates(self, jobs: Sequence[Job]) -> Iterator[Update]:
        work = ((job, self._store, self._examples[job.client], self._device) for job in jobs)
        if self._workers == 1:
            yield from itertools.starmap(_train, work)
            return
        from joblib import Parallel, delayed

        # joblib renews a worker whose memory has grown, and says so each time
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        threads = torch.get_num_threads()
        parallel: Any = Parallel(n_jobs=self._workers, return_as="generator_unordered")
        try:
            yield from parallel(delayed(_train_pinned)(threads, *arguments) for arguments in work)
        except BrokenProcessPool:
            raise RunError(
                "a worker process was killed, often for want of memory; set engine.workers = 1"
            ) from None

    def _download(self, job: Job) -> int:
        held = set(self._held.get(job.client, ()))
        sizes = {part.digest: part.size_bytes for part in job.parts}
        self._held[job.client] = sorted(sizes)
        return sum(size for digest, size in sizes.items() if digest not in held)

    def state(self) -> dict[str, Any]:
        return {str(i): digests for i, digests in self._held.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._held = {int(i): list(digests) for i, digests in state.items()}


def worker_count(wanted: int, device: torch.device, threads: int) -> int:
    """Return `wanted`; for 0, what the cores allow on the CPU, four at most, and one elsewhere.

    Cores are those that this process may use, which in a container are fewer than there are.
    """
    if wanted or device.type != "cpu":
        return wanted or 1
    from joblib import cpu_count

    return max(1, min(4, cpu_count() // threads))


def _train(job: Job, store: PartStore, examples: Sequence[Example], device: torch.device) -> Update:
    """Train, and make of whatever goes wrong on the client an update that says so."""
    try:
        return client.train(job, store.get, examples, device)
    except LeffError:
        raise  # a fault of ours or of the request, not of the client
    except Exception as error:
        log.warning("client %d failed in round %d", job.client, job.round + 1, exc_info=True)
        failure = f"{type(error).__name__}: {error}"
        return Update(job.round, job.client, job.block, len(examples), failure=failure)


def _train_pinned(threads: int, *arguments: Any) -> Update:
    """Train in a worker process, with as many torch threads as the main one."""
    torch.set_num_threads(threads)
    return _train(*arguments)
