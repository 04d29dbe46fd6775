"""The schedule of a round: who takes part, with how many and which steps, and for how long.

    schedule = schedule_jobs(model, plan, reports, holdings.missing, limits)
    schedule.plan.jobs, schedule.sat_out           # {2: "needs 41 s for 3 of 10 steps, ..."}

A client with limited memory takes the first variant of its step whose peak fits at the drawn block
(`leaner_steps`).  If its memory ran out before, the peak must be below the peak predicted then.
With a deadline, a job takes fewer steps until it is in time.  A client without the memory, or
without the time for `min_share` of its steps, sits the round out.  These rules hold for every
method.  A schedule depends only on the jobs, the devices and the parts that clients hold, so a
repeated round has the same schedule.

An update of fewer steps is merged by the client's number of examples D_i, like every other update.
After fewer steps the weights are nearer to the start, so the client already counts for less, by
about its share of the steps.  This is the inconsistency that FedNova removes (Wang et al. 2020).
Weights by the examples seen would apply the share twice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from leff.capacity.clock import Needs, Seconds, round_seconds, steps_within
from leff.capacity.deadline import least_steps, steps_of_full
from leff.capacity.job_cost import job_steps, setup_parts, step_flops
from leff.capacity.leaner_steps import first_that_fits, smallest
from leff.capacity.peak import predict_job
from leff.capacity.sizes import Sizes
from leff.methods.checks import expected_shapes
from leff.methods.method import Plan
from leff.methods.setup import ClientSetup, job_layout
from leff.wire.headers import packed_bytes
from leff.wire.messages import Capacity, Device, Job, Part, Step, Update

Missing = Callable[[Job], Mapping[str, Part]]  # the parts of a job that its client does not hold


@dataclass(frozen=True)
class Limits:
    """What a schedule depends on: the model's sizes, the requested setup, and any deadline."""

    sizes: Sizes
    setup: ClientSetup  # for what a job does not say, see `peak.predict_job`
    deadline_seconds: float | None = None
    min_share: float = 1.0  # a client that cannot do this share of its local steps sits out
    full_flops: int = 0  # of a step of full training; a job is to take as many as its epochs of it


@dataclass(frozen=True)
class Timed:
    """The needs of a client's round on its device; `setup_bytes` are sent before the round."""

    device: Device
    needs: Needs
    setup_bytes: int

    def seconds(self, update: Update) -> Seconds:
        """Return the time for the steps that the client did and the bytes that it sent."""
        needs = replace(self.needs, upload_bytes=update.upload_bytes)
        return round_seconds(needs, self.device, update.steps)

    @property
    def setup_seconds(self) -> float:
        return self.setup_bytes / self.device.down_bytes_per_second


@dataclass(frozen=True)
class Schedule:
    """A plan of jobs that fit, the reasons of clients that sit out, and each device's time."""

    plan: Plan
    sat_out: Mapping[int, str]
    timed: Mapping[int, Timed]


def schedule_jobs(
    model: nn.Module,
    plan: Plan,
    reports: Sequence[Capacity],
    missing: Missing,
    limits: Limits | None,
) -> Schedule:
    """Return the plan with every job in time and in memory, by the rules in the module's docstring.

    Without `limits` the plan is unchanged.
    """
    jobs: list[Job] = []
    sat_out: dict[int, str] = {}
    timed: dict[int, Timed] = {}
    if limits is None:
        return Schedule(plan, sat_out, timed)
    planned = {job.client: job for job in plan.jobs}
    for report in reports:
        client, device = report.client, report.device
        if client not in planned:
            sat_out[client] = _no_job(report, limits)
            continue
        job = _in_memory(_equal(planned[client], report, limits), report, limits)
        if device is not None and isinstance(job, Job):
            timed[client] = _time(model, job, device, missing(job), limits)
            job = _in_time(job, report, timed[client], limits)
        if isinstance(job, str):
            sat_out[client] = job
        else:
            jobs.append(job)
    return Schedule(replace(plan, jobs=tuple(jobs)), sat_out, timed)


def with_peak(job: Job, limits: Limits) -> Job:
    """Return the job with the predicted peak of its step."""
    return replace(job, predicted_bytes=predict_job(job, limits.setup).peak)


def _equal(job: Job, report: Capacity, limits: Limits) -> Job:
    """Return the job with as many steps as take the operations of full training, if asked for."""
    if not limits.full_flops:
        return job
    own = step_flops(
        job_layout(job, limits.setup.embedding_bits),
        limits.sizes,
        job.training.step,
        limits.setup.length,
    )
    steps = steps_of_full(job_steps(job, report.examples), own, limits.full_flops)
    return with_steps(job, steps, report.examples)


def _in_memory(job: Job, report: Capacity, limits: Limits) -> Job | str:
    """Return the job with the first variant of its step that fits, or the reason why none fits.

    Without a limit the job is unchanged, and nothing is predicted.
    """
    below = None if report.failed_bytes is None else report.failed_bytes - 1
    rooms = [room for room in (report.memory_bytes, below) if room is not None]
    if not rooms:
        return job

    def done(step: Step) -> Job:
        return with_peak(replace(job, training=replace(job.training, step=step)), limits)

    step = job.training.step
    fitting = first_that_fits(step, lambda each: done(each).predicted_bytes, min(rooms))
    if fitting is not None:
        return done(fitting)
    if report.failed_bytes is not None:
        return _ran_out(report)
    name = "client" if report.device is None else report.device.name
    least = done(smallest(step)).predicted_bytes
    return f"{least:,} bytes are needed, a {name} has {report.memory_bytes:,}"


def _no_job(report: Capacity, limits: Limits) -> str:
    if report.failed_bytes is not None:
        return _ran_out(report)
    seconds = limits.deadline_seconds
    late = "" if seconds is None else f" and a deadline of {seconds:g} s"
    return f"no block and context fit {report.memory_bytes:,} bytes{late}"


def _ran_out(report: Capacity) -> str:
    return f"its memory ran out where {report.failed_bytes:,} bytes were predicted"


def _time(
    model: nn.Module, job: Job, device: Device, missing: Mapping[str, Part], limits: Limits
) -> Timed:
    once, setup = setup_parts(job), limits.setup
    layout = job_layout(job, setup.embedding_bits)
    needs = Needs(
        sum(part.size_bytes for digest, part in missing.items() if digest not in once),
        packed_bytes(expected_shapes(model, job), job.upload),
        step_flops(layout, limits.sizes, job.training.step, setup.length),
    )
    return Timed(
        device, needs, sum(p.size_bytes for digest, p in missing.items() if digest in once)
    )


def _in_time(job: Job, report: Capacity, timed: Timed, limits: Limits) -> Job | str:
    """Return the job with the steps that are in time, or the reason why they are too few."""
    wanted = job_steps(job, report.examples)
    if limits.deadline_seconds is None:
        return job
    steps = steps_within(timed.needs, timed.device, limits.deadline_seconds, wanted)
    least = least_steps(wanted, limits.min_share)
    if steps < least:
        needed = round_seconds(timed.needs, timed.device, least).total
        return (
            f"{least} of {wanted} steps take {needed:.3g} s on a {timed.device.name}, "
            f"the deadline is {limits.deadline_seconds:g} s"
        )
    return job if steps == wanted else with_steps(job, steps, report.examples)


def with_steps(job: Job, steps: int, examples: int) -> Job:
    """Return the job with the fraction of epochs that makes `steps` steps of these examples."""
    epochs = steps / math.ceil(examples / job.training.step.batch_size)
    return replace(job, training=replace(job.training, epochs=epochs))
