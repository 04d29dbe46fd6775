"""The engine `local`: all clients on this machine, a few at a time, no server needed.

    fleet = LocalFleet(client_examples, capacities, store, torch.device("cpu"), workers=2)
    updates = list(fleet.train(plan.jobs))

With one worker, clients run in this process, one after another.  With more, they run in as many
processes of one torch thread count each, and the updates arrive in any order.  The result is the
same.  As many client models are in memory as there are workers.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from leff.client.train import train_or_fail
from leff.errors import RunError
from leff.tasks.encode import Example
from leff.wire.messages import Capacity, Job, Update
from leff.wire.parts import PartStore


class LocalFleet:
    """Clients by id: their examples, and what each reports."""

    def __init__(
        self,
        examples: Sequence[Sequence[Example]],
        capacities: Sequence[Capacity],
        store: PartStore,
        device: torch.device,
        workers: int = 1,
    ) -> None:
        self._examples, self._capacities = examples, capacities
        self._store, self._device, self._workers = store, device, workers

    def clients(self) -> Sequence[int]:
        return range(len(self._examples))

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        return [self._capacities[client] for client in clients]

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Yield the jobs' updates as they are done.  RunError if a worker process is killed."""
        fetch, device = self._store.get, self._device
        work = ((job, fetch, self._examples[job.client], device) for job in jobs)
        if self._workers == 1:
            yield from itertools.starmap(train_or_fail, work)
            return
        from joblib import Parallel, delayed

        # joblib renews a worker whose memory has grown, and says so each time
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        threads = torch.get_num_threads()
        parallel = Parallel(n_jobs=self._workers, return_as="generator_unordered")
        try:
            yield from parallel(delayed(_train_pinned)(threads, *arguments) for arguments in work)
        except BrokenProcessPool:
            raise RunError(
                "a worker process was killed, often for want of memory; set engine.workers = 1"
            ) from None


def worker_count(wanted: int, device: torch.device, threads: int) -> int:
    """Return `wanted`; for 0, what the cores allow on the CPU, four at most, and one elsewhere.

    Cores are those that this process may use, which in a container are fewer than there are.
    """
    if wanted or device.type != "cpu":
        return wanted or 1
    from joblib import cpu_count

    return max(1, min(4, cpu_count() // threads))


def _train_pinned(threads: int, *arguments: Any) -> Update:
    """Train in a worker process, with as many torch threads as the main one."""
    torch.set_num_threads(threads)
    return train_or_fail(*arguments)
