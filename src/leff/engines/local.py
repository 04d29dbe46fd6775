"""The engine `local`: all clients on this machine, a few at a time, no server needed.

    fleet = LocalFleet(client_examples, capacities, store, torch.device("cpu"), workers=2)
    updates = list(fleet.train(plan.jobs))

With one worker, clients run in this process, one after another; with more, in as many processes
of one torch thread count each, and the updates arrive in any order.  The result is the same.  A
client keeps the parts of its last job, and downloads only those of the next that differ; the
engine counts those bytes.  As many client models are in memory as there are workers.

A client whose memory runs out fails in that round and reports less from then on: memory below what
was predicted for that job, and where it has no budget, a layer fewer.
"""

import gc
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

import torch

from leff.client import train as client
from leff.client.memory import asked_bytes, is_out_of_memory, resident_bytes
from leff.errors import LeffError, RunError
from leff.tasks.encode import Example
from leff.wire.messages import Capacity, Device, Job, Part, Update
from leff.wire.parts import PartStore

log = logging.getLogger("leff.engines")


class LocalFleet:
    """Clients by id: their examples, and what each can fine-tune.

    `budgets` are their memory and their operations of a step, where they have any;
    `devices` what each runs on, in the virtual clock's eyes.
    """

    def __init__(
        self,
        examples: Sequence[Sequence[Example]],
        capacities: Sequence[int],
        store: PartStore,
        device: torch.device,
        workers: int = 1,
        budgets: Sequence[tuple[int | None, int | None]] = (),
        devices: Sequence[Device] = (),
    ) -> None:
        self.size = len(examples)
        self._devices = devices or [None] * len(examples)
        self._budgets = budgets or [(None, None)] * len(examples)
        self._examples, self._capacities = examples, capacities
        self._store, self._device, self._workers = store, device, workers
        self._held: dict[int, list[str]] = {}  # client -> digests of its last job's parts
        self._failed: dict[int, int] = {}  # client -> predicted bytes that its memory ran out at
        self._layers: dict[int, int] = {}  # client -> layers that it is left with since

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        return [self._report(i) for i in clients]

    def _report(self, i: int) -> Capacity:
        layers = min(self._capacities[i], self._layers.get(i, self._capacities[i]))
        report = client.report(i, layers, self._examples[i], *self._budgets[i])
        report, failed = replace(report, device=self._devices[i]), self._failed.get(i)
        if failed is None or report.memory_bytes is None:
            return replace(report, failed_bytes=failed)
        memory_bytes = min(report.memory_bytes, failed - 1)
        return replace(report, memory_bytes=memory_bytes, failed_bytes=failed)

    def missing(self, job: Job) -> Mapping[str, Part]:
        held = set(self._held.get(job.client, ()))
        return {part.digest: part for part in job.parts if part.digest not in held}

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

    def lower(self, job: Job) -> None:
        """Take down what a client says it can do, after its memory ran out in this job."""
        if job.predicted_bytes:
            self._failed[job.client] = min(
                job.predicted_bytes, self._failed.get(job.client, job.predicted_bytes)
            )
        if self._budgets[job.client][0] is None and job.tuned is None:
            self._layers[job.client] = max(1, len(job.block) - 1)

    def _download(self, job: Job) -> int:
        needed = sum(part.size_bytes for part in self.missing(job).values())
        self._held[job.client] = sorted({part.digest for part in job.parts})
        return needed

    def state(self) -> dict[str, Any]:
        return {
            name: {str(i): value for i, value in found.items()}
            for name, found in (
                ("held", self._held),
                ("failed_bytes", self._failed),
                ("layers", self._layers),
            )
        }

    def load_state(self, state: dict[str, Any]) -> None:
        found = {name: {int(i): v for i, v in values.items()} for name, values in state.items()}
        self._held = {i: list(digests) for i, digests in found["held"].items()}
        self._failed, self._layers = found["failed_bytes"], found["layers"]


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
    before = resident_bytes(device)
    try:
        return client.train(job, store.get, examples, device)
    except LeffError:
        raise  # a fault of ours or of the request, not of the client
    except Exception as error:
        failed = Update(job.round, job.client, job.block, len(examples))
        if not is_out_of_memory(error):
            log.warning("client %d failed in round %d", job.client, job.round + 1, exc_info=True)
            return replace(failed, failure=f"{type(error).__name__}: {error}")
        held = max(1, resident_bytes(device) - before + asked_bytes(error))
        said = " ".join(str(error).split())[:200] or type(error).__name__
    gc.collect()  # what the error held is free now
    if device.type == "cuda":
        torch.cuda.empty_cache()
    failure = f"out of memory: {held:,} bytes held and asked for ({said})"
    log.warning("client %d in round %d: %s", job.client, job.round + 1, failure)
    return replace(failed, failure=failure, out_of_memory_bytes=held)


def _train_pinned(threads: int, *arguments: Any) -> Update:
    """Train in a worker process, with as many torch threads as the main one."""
    torch.set_num_threads(threads)
    return _train(*arguments)
