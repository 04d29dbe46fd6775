"""Who takes part in a round, how its steps are done, how many, and how long they take.

    paced = pace_jobs(model, plan, reports, fleet.missing, pace)
    paced.plan.jobs, paced.sat_out                 # {2: "needs 41 s for 3 of 10 steps, ..."}
    paced.clock(updates)                           # for the round's record

Where a client's memory is limited, its step is done the plainest way whose peak it has room for
(`leaner_steps`), at the block that was drawn; one whose memory has run out has room for less than
was predicted then.  With a deadline the steps of a job shrink until it is in time.  Who has no
room, or cannot do `min_share` of the steps, sits the round out.  This is so whatever the method,
and follows from the jobs, the devices and what clients hold, so a round that is run again is paced
the same.

How an update of fewer steps is merged: by the client's number of examples D_i, as every other.
After fewer steps weights are nearer to the start, so such a client counts for less by about its
share of the steps: the inconsistency that FedNova is about (Wang et al. 2020).  To weigh by the
examples seen would apply that share a second time.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leff.capacity.clock import Needs, Seconds, idle_share, round_seconds, steps_within
from leff.capacity.footprint import Choice
from leff.capacity.job_cost import payload_bytes, setup_parts, step_count, step_flops
from leff.capacity.leaner_steps import Way, leanest, plainest
from leff.capacity.peak import predict_job
from leff.capacity.sizes import Sizes
from leff.methods.checks import expected_shapes
from leff.methods.method import Plan
from leff.wire.messages import Capacity, Device, Job, Part, Update


@dataclass(frozen=True)
class Pace:
    """What jobs are weighed by: the model's sizes, the step asked for, and the deadline if any."""

    sizes: Sizes
    asked: Choice  # of it what a job does not say: `prediction.predict_job`
    deadline_seconds: float | None = None
    min_share: float = 1.0  # of a client's local steps; with fewer it sits out


@dataclass(frozen=True)
class Timed:
    """What a client's round takes on its device; `setup_bytes` are sent before the round."""

    device: Device
    needs: Needs
    setup_bytes: int

    def seconds(self, update: Update) -> Seconds:
        """Return the time that the client really took, by its steps and what it sent."""
        needs = replace(self.needs, upload_bytes=update.upload_bytes)
        return round_seconds(needs, self.device, update.steps)

    @property
    def setup_seconds(self) -> float:
        return self.setup_bytes / self.device.down_bytes_per_second


@dataclass(frozen=True)
class Paced:
    """A plan whose jobs are in time, why the others sit out, and every job's time."""

    plan: Plan
    sat_out: Mapping[int, str]
    timed: Mapping[int, Timed]

    def clock(self, updates: Iterable[Update]) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
        """Return what the clock adds to the round's record, and to each client's."""
        clients: dict[int, dict[str, Any]] = {}
        own = []
        for update in updates:
            if update.client not in self.timed:
                continue
            timed = self.timed[update.client]
            spent = timed.seconds(update)
            own.append(spent.total)
            clients[update.client] = {
                "device": timed.device.name,
                "seconds_simulated": {
                    "download": spent.download,
                    "compute": spent.compute,
                    "upload": spent.upload,
                    "round": spent.total,
                    "setup": timed.setup_seconds,
                },
            }
        found: dict[str, Any] = {}
        if self.sat_out:
            found["sat_out"] = {str(client): why for client, why in sorted(self.sat_out.items())}
        if own:
            found |= {
                "round_seconds_simulated": max(own),
                "setup_seconds_simulated": max(
                    clients[client]["seconds_simulated"]["setup"] for client in clients
                ),
                "idle_share": idle_share([*own, *(0.0 for _ in self.sat_out)]),
            }
        return found, clients


def pace_jobs(
    model: nn.Module,
    plan: Plan,
    reports: Sequence[Capacity],
    missing: Callable[[Job], Mapping[str, Part]],
    pace: Pace,
) -> Paced:
    """Return the plan with every job in time and in memory; see the module's text.

    `missing` returns the parts of a job, by digest, that its client does not hold.
    """
    jobs, sat_out, timed = [], {}, {}
    planned = {job.client: job for job in plan.jobs}
    for report in reports:
        client, device = report.client, report.device
        if client not in planned:
            sat_out[client] = _no_job(report, pace)
            continue
        found = _in_memory(planned[client], report, pace)
        if device is not None and isinstance(found, Job):
            timed[client] = _time(model, found, device, missing(found), pace)
            found = _in_time(found, report, timed[client], pace)
        if isinstance(found, str):
            sat_out[client] = found
        else:
            jobs.append(found)
    return Paced(replace(plan, jobs=tuple(jobs)), sat_out, timed)


def with_peak(job: Job, pace: Pace) -> Job:
    """Return the job with the predicted peak of its step."""
    return replace(job, predicted_bytes=predict_job(job, pace.asked).peak)


def _in_memory(job: Job, report: Capacity, pace: Pace) -> Job | str:
    """Return the job with its step done the plainest way that fits, or why none does.

    Without a limit it stays as it is, and nothing is predicted.
    """
    below = None if report.failed_bytes is None else report.failed_bytes - 1
    limits = [limit for limit in (report.memory_bytes, below) if limit is not None]
    if not limits:
        return job

    def done(way: Way) -> Job:
        return with_peak(replace(job, training=replace(job.training, **vars(way))), pace)

    way = plainest(job.training, lambda way: done(way).predicted_bytes, min(limits))
    if way is not None:
        return done(way)
    if report.failed_bytes is not None:
        return _ran_out(report)
    name = "client" if report.device is None else report.device.name
    least = done(leanest(job.training)).predicted_bytes
    return f"{least:,} bytes are needed, a {name} has {report.memory_bytes:,}"


def _no_job(report: Capacity, pace: Pace) -> str:
    if report.failed_bytes is not None:
        return _ran_out(report)
    limit = pace.deadline_seconds
    late = "" if limit is None else f" and a deadline of {limit:g} s"
    return f"no block and context fit {report.memory_bytes:,} bytes{late}"


def _ran_out(report: Capacity) -> str:
    return f"its memory ran out where {report.failed_bytes:,} bytes were predicted"


def _time(
    model: nn.Module, job: Job, device: Device, missing: Mapping[str, Part], pace: Pace
) -> Timed:
    setup = setup_parts(job)
    needs = Needs(
        sum(part.size_bytes for digest, part in missing.items() if digest not in setup),
        payload_bytes(expected_shapes(model, job)),
        step_flops(job, pace.sizes, pace.asked.length),
    )
    return Timed(
        device, needs, sum(p.size_bytes for digest, p in missing.items() if digest in setup)
    )


def _in_time(job: Job, report: Capacity, timed: Timed, pace: Pace) -> Job | str:
    """Return the job with as many steps as are in time, or why there are too few."""
    wanted = step_count(job, report.examples)
    if pace.deadline_seconds is None:
        return job
    steps = steps_within(timed.needs, timed.device, pace.deadline_seconds, wanted)
    least = least_steps(wanted, pace.min_share)
    if steps < least:
        needed = round_seconds(timed.needs, timed.device, least).total
        return (
            f"{least} of {wanted} steps take {needed:.3g} s on a {timed.device.name}, "
            f"the deadline is {pace.deadline_seconds:g} s"
        )
    return job if steps == wanted else with_steps(job, steps, report.examples)


def least_steps(wanted: int, min_share: float) -> int:
    """Return the fewest steps that a client takes part with, at least one if it has any."""
    return math.ceil(round(min_share * wanted, 9))


def with_steps(job: Job, steps: int, examples: int) -> Job:
    """Return the job with epochs that are so many steps of so many examples."""
    epochs = steps / math.ceil(examples / job.training.batch_size)
    return replace(job, training=replace(job.training, epochs=epochs))
