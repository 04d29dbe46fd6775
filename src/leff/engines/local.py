"""The engine `local`: all clients run on this machine, a few at a time, without a network.

    fleet = LocalFleet(client_examples, capacities, store, torch.device("cpu"), workers=2)
    updates = list(fleet.train(plan.jobs))

With one worker, clients run one after another in this process.  With more workers, each is a
process with the same number of torch threads, and updates arrive in any order.  The result is the
same.  Each worker has one client model in memory.  Workers end with this process, and when `train`
is closed before its last update.
"""

import itertools
import logging
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from leff.client.measure import examples_of, measure_or_fail
from leff.client.residuals import Residuals
from leff.client.summed import Held
from leff.client.train import train_or_fail
from leff.client.upload import first_values
from leff.engines.processes import end_with
from leff.errors import RunError
from leff.privacy.noise import Noise
from leff.privacy.secure_messages import SumAnswer, SumAsk
from leff.tasks.encode import Example
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, Update
from leff.wire.parts import PartStore

log = logging.getLogger("leff")
T = TypeVar("T")
WORKERS_A_CORE = 4  # more only take memory; the GPU's too are fed by the cores


class LocalFleet:
    """Clients by id, with their examples and the capacity that each reports.

    `residuals` is where clients keep what rounding lost of their updates, and `validation` has the
    examples that each client holds out to measure models on.  `noise` is asked for once clients add
    noise to their updates.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[Example]],
        capacities: Sequence[Capacity],
        store: PartStore,
        device: torch.device,
        workers: int = 1,
        residuals: Residuals | None = None,
        validation: Sequence[Sequence[Example]] = (),
        noise: Callable[[], Noise] | None = None,
    ) -> None:
        self._examples, self._capacities, self._validation = examples, capacities, validation
        self._store, self._device, self._residuals = store, device, residuals
        self._noise = noise
        self._held: dict[int, Held] = {}  # the round's updates, with secure sums
        self._workers = max(1, min(workers, len(examples)))
        self.steady = True

    def clients(self) -> Sequence[int]:
        return range(len(self._examples))

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        return [self._capacities[client] for client in clients]

    def train(self, jobs: Sequence[Job]) -> Generator[Update]:
        """Yield the jobs' updates as they finish.  RunError if a worker process is killed."""
        kept = self._residuals
        noise = self._noise() if self._noise and any(job.clip for job in jobs) else None
        own = [
            (self._examples[job.client], kept and kept.of(job.client), None, noise) for job in jobs
        ]
        updates = self._done(train_or_fail, jobs, own)
        return self._holding(jobs, updates) if any(job.held for job in jobs) else updates

    def _holding(self, jobs: Sequence[Job], updates: Generator[Update]) -> Generator[Update]:
        """Yield updates without their tensors, which stay with the clients for a secure sum."""
        asked = {job.client: job for job in jobs}
        self._held = {}
        with closing(updates):
            for update in updates:
                if update.failure is None:
                    job = asked[update.client]
                    start = partial(first_values, job, self._store.get)
                    self._held[update.client] = Held(job, update.payload, start)
                yield replace(update, payload=b"", upload_bytes=0)

    def sum(self, asks: Mapping[int, SumAsk]) -> Generator[SumAnswer]:
        """Yield the clients' answers, one after another."""
        return (self._held[client].answer(ask) for client, ask in asks.items())

    def measure(self, jobs: Sequence[MeasureJob]) -> Generator[Measure]:
        """Yield the measurements as they finish.  RunError if a worker process is killed."""
        held = [self._validation[job.client] if self._validation else () for job in jobs]
        own = [
            (examples_of(job, self._examples[job.client], rows),)
            for job, rows in zip(jobs, held, strict=True)
        ]
        return self._done(measure_or_fail, jobs, own)

    def close(self) -> None:
        """Do nothing: the clients' processes end with each round."""

    def _done(
        self,
        do: Callable[..., T],
        jobs: Sequence[Job] | Sequence[MeasureJob],
        own: Sequence[tuple[Any, ...]],
    ) -> Generator[T]:
        """Yield what `do` makes of each job and what its client has, in any order."""
        fetch, device = self._store.get, self._device
        work = (
            (job, fetch, examples, device, *more)
            for job, (examples, *more) in zip(jobs, own, strict=True)
        )
        if self._workers == 1:
            yield from itertools.starmap(do, work)
            return
        from joblib import Parallel, delayed

        # joblib restarts a worker whose memory has grown, and warns each time
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        # and when it is closed early
        warnings.filterwarnings("ignore", message=".*You could benefit from adjusting the input")
        threads = torch.get_num_threads()
        parallel = Parallel(
            n_jobs=self._workers,
            return_as="generator_unordered",
            initializer=end_with,
            initargs=(os.getpid(),),
        )
        try:
            yield from parallel(delayed(_pinned)(threads, do, *arguments) for arguments in work)
        except BrokenProcessPool:
            raise RunError(
                "a worker process was killed, often for want of memory; set engine.workers = 1"
            ) from None


def worker_count(wanted: int, device: torch.device, threads: int) -> int:
    """Return `wanted`.  If it is 0, return cores / threads up to four on the CPU, one elsewhere.

    More than `WORKERS_A_CORE` are lowered to that, with a warning: the run may have been started
    on a larger machine, and results do not depend on it.  Only cores that this process may use
    count.  In a container these are fewer than all cores.
    """
    from joblib import cpu_count

    most = WORKERS_A_CORE * cpu_count()
    if wanted > most:
        log.warning("engine.workers = %d is too many for %d cores: %d", wanted, cpu_count(), most)
    if wanted or device.type != "cpu":
        return min(wanted, most) or 1
    return max(1, min(4, cpu_count() // threads))


def _pinned(threads: int, do: Callable[..., T], *arguments: Any) -> T:
    """Work in a worker process with the main process's number of torch threads."""
    torch.set_num_threads(threads)
    return do(*arguments)
