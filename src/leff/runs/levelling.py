"""Levels the head after a merge: asks the round's clients, and moves it (`leff.methods.level`).

leveller = leveller_of(config, task, writer, proxy)           # None if nothing is levelled
record["level"] = leveller.level(model, fleet, server, context, reports)
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from leff.methods.jobs import JobWriter, measure_jobs
from leff.methods.level import PROBE, head_step, move_head, probe_pool
from leff.methods.method import RoundContext
from leff.methods.stand_ins import Batch
from leff.models.kinds import LEVELLED_KINDS
from leff.record import Levelling
from leff.round import Fleet
from leff.runs.options import RunConfig
from leff.server import Server
from leff.tasks.task import Task
from leff.wire.checks import ExpectedMeasure
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Measure


@dataclass(frozen=True)
class Leveller:
    """How clients are asked for answers.  `proxy` is for a head without a bias."""

    writer: JobWriter
    classes: int  # K of a classifier, 0 of a regression
    bits: int  # of the model's linear weights, as it is sent
    batch_size: int
    proxy: Sequence[Batch]

    def level(
        self,
        model: nn.Module,
        fleet: Fleet,
        server: Server,
        context: RoundContext,
        reports: Sequence[Capacity],
    ) -> Levelling:
        """Ask the clients that trained what the model answers, and move its head in place.

        A repeated round moves it as before, if the fleet may have changed.
        """
        decided = context.decided.get("level")
        if decided is None:
            found = self._asked(model, fleet, server, context, reports)
            if not fleet.steady:
                context.decided["level"] = [to_json(each) for each in found]
        else:
            found = [from_json(Measure, text) for text in decided]
        sizes = {report.client: report.examples for report in reports}
        step = head_step(found, sizes, self.classes)
        if step is not None and not move_head(model, step, self.proxy):
            step = None
        if self.classes:
            server.labels |= {each.client: each.labels for each in found if each.labels}
        return Levelling(
            step=() if step is None else tuple(map(float, step)),
            clients=sum(each.failure is None for each in found),
            download_bytes=sum(each.download_bytes for each in found),
        )

    def _asked(
        self,
        model: nn.Module,
        fleet: Fleet,
        server: Server,
        context: RoundContext,
        reports: Sequence[Capacity],
    ) -> list[Measure]:
        index, clients = context.index + 1, [report.client for report in reports]
        jobs = measure_jobs(
            self.writer, model, index, clients, self.bits, self.batch_size, PROBE, context.seed
        )
        expected = {
            report.client: ExpectedMeasure(
                round=index,
                client=report.client,
                kind=self.writer.kind,
                examples=probe_pool(report),
                classes=self.classes,
                labels=PROBE,
                probe=PROBE,
            )
            for report in reports
        }
        return server.measured(jobs, expected, fleet.measure(jobs))


def is_levelled(config: RunConfig, kind: str) -> bool:
    """Return whether a run on a kind of task levels the head."""
    return config.training.levelled and kind in LEVELLED_KINDS


def leveller_of(
    config: RunConfig, task: Task, writer: JobWriter, proxy: Sequence[Batch]
) -> Leveller | None:
    """Return the leveller of a run, or None if nothing is levelled."""
    if not is_levelled(config, task.kind):
        return None
    return Leveller(
        writer=writer,
        classes=len(task.labels) if task.kind == "classification" else 0,
        bits=config.evaluation.bits,
        batch_size=config.training.batch_size,
        proxy=proxy,
    )
