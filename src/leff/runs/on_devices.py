"""Federated evaluation: devices measure the model on their own examples, the server adds up.

    measuring = on_devices(config, task, writer)              # None if devices do not measure
    found = measuring.measure(model, fleet, server, round=3)  # JSON values, for round 3's record
    found["loss"], found["worst"]["client"], found["clients"]["2"]["loss"]

No example leaves a device, and the server needs none.
"""

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leff.methods.jobs import JobWriter, measure_jobs
from leff.models import blocks
from leff.round import Fleet
from leff.runs.options import RunConfig
from leff.server import Server
from leff.tasks.metrics.glue import PRIMARY
from leff.tasks.metrics.sums import METRICS, check_metric, figures, metrics_of, pooled
from leff.tasks.task import Task
from leff.wire.checks import ExpectedMeasure, checked_measure
from leff.wire.messages import Measure, MeasureJob

log = logging.getLogger("leff")


@dataclass(frozen=True)
class OnDevices:
    """How devices measure the model; `metric` is the one that tables and logs show."""

    writer: JobWriter
    metric: str
    classes: int  # K of a classifier, else 0
    max_length: int  # tokens of an example, at most
    bits: int  # of the model's linear weights, as it is sent
    batch_size: int

    def measure(self, model: nn.Module, fleet: Fleet, server: Server, round: int) -> dict[str, Any]:
        """Have every available client that holds out examples measure the model.

        Returns the `summary`, and ``download_bytes`` and ``slowest_seconds``.  Figures are NaN if
        nobody measured.
        """
        asked = fleet.clients()
        reports, _ = server.believed(asked, fleet.report(asked), len(blocks(model)))
        held = {report.client: report.validation for report in reports if report.validation}
        jobs = measure_jobs(self.writer, model, round, list(held), self.bits, self.batch_size)
        sent = {job.client: server.holdings.send(job) for job in jobs}
        with closing(fleet.measure(jobs)) as answers:
            found = self.believed(jobs, held, answers)
        if not server.counted:
            found = [replace(each, download_bytes=sent[each.client]) for each in found]
        slowest = max((each.seconds for each in found), default=0.0)
        return {
            "metric": self.metric,
            **self.summary(found),
            "download_bytes": sum(each.download_bytes for each in found),
            "slowest_seconds": slowest,
        }

    def believed(
        self, jobs: Sequence[MeasureJob], held: Mapping[int, int], answers: Generator[Measure]
    ) -> list[Measure]:
        """Return each client's measurement, checked, in the order of ids; the first one counts.

        `held` has the number of examples that each client reported.  A message that belongs to no
        job is dropped.  A client that does not answer has a failure.
        """
        wanted = {job.client: job for job in jobs}
        found: dict[int, Measure] = {}
        for answer in answers:
            client = answer.client
            if type(client) is not int or client not in wanted or client in found:
                continue
            if type(answer.round) is int and answer.round == wanted[client].round:
                checked = checked_measure(answer, self._expected(wanted[client], held))
                found[client] = replace(checked, download_bytes=answer.download_bytes)
        for client, job in wanted.items():
            silent = Measure(job.round, client, held[client], failure="it did not answer")
            found.setdefault(client, silent)
        failed = [each for each in found.values() if each.failure is not None]
        if failed:
            log.warning("%d clients measured nothing (%s)", len(failed), failed[0].failure)
        return [found[client] for client in sorted(found)]

    def _expected(self, job: MeasureJob, held: Mapping[int, int]) -> ExpectedMeasure:
        count = held[job.client]
        return ExpectedMeasure(
            job.round, job.client, job.kind, count, self.classes, count * self.max_length
        )

    def summary(self, measures: Sequence[Measure]) -> dict[str, Any]:
        """Return ``loss`` and ``metrics`` of all ``examples`` together, ``clients`` and ``worst``.

        The worst client has the highest loss; one whose model is not finite comes first.
        """
        kind = self.writer.kind
        good = [each for each in measures if each.failure is None]
        clients: dict[str, dict[str, Any]] = {}
        for each in measures:
            if each.failure is not None:
                failed = {"failure": each.failure, "download_bytes": each.download_bytes}
                clients[str(each.client)] = failed
                continue
            own = figures(kind, each, self.classes)
            clients[str(each.client)] = {
                "examples": each.examples,
                "loss": own["loss"],
                "metric": own[self.metric],
                "download_bytes": each.download_bytes,
            }
        names = metrics_of(kind, self.classes)
        nothing = dict.fromkeys(("loss", *names), math.nan)
        total = figures(kind, pooled(good), self.classes) if good else nothing
        worst = None
        if good:
            client = max(good, key=_badness).client
            own = clients[str(client)]
            worst = {"client": client, "loss": own["loss"], "metric": own["metric"]}
        return {
            "examples": sum(each.examples for each in good),
            "loss": total["loss"],
            "metrics": {name: total[name] for name in names},
            "worst": worst,
            "clients": clients,
        }


def _badness(measure: Measure) -> float:
    return math.inf if measure.loss is None else measure.loss / max(1, measure.weight)


def on_devices(config: RunConfig, task: Task, writer: JobWriter) -> OnDevices | None:
    """Return how devices measure a run's model, or None if the server alone does.

    Raises ConfigError for a metric that cannot be added up.
    """
    evaluation = config.evaluation
    if evaluation.where == "server":
        return None
    own = PRIMARY.get(task.name, METRICS[task.kind][0])
    metric = evaluation.device_metric or own
    check_metric(task.kind, metric)
    return OnDevices(
        writer=writer,
        metric=metric,
        classes=len(task.labels),
        max_length=config.data.max_length,
        bits=evaluation.bits,
        batch_size=evaluation.batch_size,
    )
