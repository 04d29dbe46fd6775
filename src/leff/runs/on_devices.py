"""Federated evaluation: devices measure the model on their own examples, the server adds up.

    measuring = on_devices(config, task, writer)              # None if devices do not measure
    found = measuring.measure(model, fleet, server, round=3)  # JSON values, for round 3's record
    found["loss"], found["worst"]["client"], found["clients"]["2"]["loss"]

No example leaves a device, and the server needs none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
from leff.wire.checks import ExpectedMeasure
from leff.wire.messages import Measure, MeasureJob


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
        expected = {job.client: self._expected(job, held[job.client]) for job in jobs}
        found = server.measured(jobs, expected, fleet.measure(jobs))
        slowest = max((each.seconds for each in found), default=0.0)
        return {
            "metric": self.metric,
            **self.summary(found),
            "download_bytes": sum(each.download_bytes for each in found),
            "slowest_seconds": slowest,
        }

    def _expected(self, job: MeasureJob, held: int) -> ExpectedMeasure:
        return ExpectedMeasure(
            job.round, job.client, job.kind, held, self.classes, held * self.max_length
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
