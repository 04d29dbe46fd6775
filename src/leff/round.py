"""The round: what every method and every engine runs.  Start reading here.

    1  capacity        each client that takes part says how many layers it can fine-tune
    2  plan            the method samples a block of layers for each, and compresses the rest
    3  local training  each client trains its block inside its own small model
    4  merge           the method averages layer by layer

Two seams meet here: a `Method` (what is sent, trained, merged: `leff.methods`) and a `Fleet`
(where the clients are: `leff.engines`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from torch import nn

from leff.capacity.schedule import Pace, Paced, pace_jobs, with_peak
from leff.methods.checks import expected_shapes, refusal
from leff.methods.method import Method, Plan, RoundContext
from leff.record import _record
from leff.seeds import numpy_rng
from leff.wire.messages import Capacity, Job, Part, Update
from leff.wire.spool import Spool


class Fleet(Protocol):
    """Where the clients are.  Ids run from 0 to `size` - 1."""

    size: int

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        """Return the capacities of these clients."""
        ...

    def missing(self, job: Job) -> Mapping[str, Part]:
        """Return the parts of a job, by digest, that its client does not hold."""
        ...

    def train(self, jobs: Sequence[Job]) -> Iterator[Update]:
        """Have the jobs done and yield the updates, one at a time, in any order."""
        ...

    def lower(self, job: Job) -> None:
        """Have a client report less from now on, as its memory ran out in this job."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Put `state()`'s values back."""
        ...


def run_round(
    model: nn.Module,
    method: Method,
    fleet: Fleet,
    context: RoundContext,
    spool: Spool,
    share: float = 1.0,
    progress: Callable[[Plan, Update | None], None] = lambda plan, update: None,
    observe: Callable[[Plan, Spool], dict[str, Any]] = lambda plan, spool: {},
    pace: Pace | None = None,
) -> dict[str, Any]:
    """Run one round with a `share` of the clients; the model is changed in place.

    An update that cannot be merged is refused and counted, and the round goes on.  Returns the
    round's record.  `progress` is called with the plan, then with every update; `observe` before
    the merge, and what it returns goes into the record.  `pace` is what jobs are weighed by, for
    the deadline, the virtual clock, and clients whose memory ran out.
    """
    started = time.perf_counter()
    rng = numpy_rng(context.seed, "clients", context.index)
    reports = fleet.report(choose_clients(fleet.size, share, rng))  # 1
    plan = method.plan(model, context, reports)  # 2
    paced = Paced(plan, {}, {})
    if pace is not None:
        paced = pace_jobs(model, plan, reports, fleet.missing, pace)
        plan = paced.plan
    planned = time.perf_counter()
    progress(plan, None)
    asked = {job.client: expected_shapes(model, job) for job in plan.jobs}
    jobs = {job.client: job for job in plan.jobs}
    spool.clear()
    for update in fleet.train(plan.jobs):  # 3
        if update.out_of_memory_bytes:
            job = jobs[update.client]
            jobs[update.client] = job if pace is None else with_peak(job, pace)
            fleet.lower(jobs[update.client])
            predicted = f"; {jobs[update.client].predicted_bytes:,} bytes were predicted"
            update = replace(update, failure=f"{update.failure}{predicted}")
        reason = refusal(asked[update.client], update)
        if reason is not None:
            update = replace(update, payload=b"", losses=None, failure=reason)
        spool.add(update)
        progress(plan, update)
    trained = time.perf_counter()
    observed = observe(plan, spool)
    before_merge = time.perf_counter()
    method.merge(model, spool.accepted())  # 4
    seconds = {
        "plan_seconds": planned - started,
        "train_seconds": trained - planned,
        "observe_seconds": before_merge - trained,
        "merge_seconds": time.perf_counter() - before_merge,
    }
    return _record(context, reports, paced, jobs, spool) | observed | seconds


def choose_clients(size: int, share: float, rng: np.random.Generator) -> list[int]:
    """Return the ids of a share of the clients, at least one, in order."""
    count = max(1, round(size * share))
    return sorted(int(client) for client in rng.choice(size, count, replace=False))
