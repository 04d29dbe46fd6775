"""One round, the same for every method and every engine.  Start reading here.

    1  capacity        each client that takes part says how many layers it can fine-tune
    2  plan            the method samples a block of layers for each, and compresses the rest
    3  local training  each client trains its block inside its own small model
    4  merge           the method averages layer by layer

Two seams meet here.  A `Method` says what is sent, trained and merged (`leff.methods`).  A `Fleet`
reaches the clients (`leff.engines`).
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import nn

from leff.capacity.schedule import schedule_jobs
from leff.errors import RunError
from leff.methods.method import Method, Plan, RoundContext, merge_round
from leff.models import blocks
from leff.privacy.secure_messages import SumAnswer, SumAsk
from leff.record import Levelling, RoundRecord, round_record
from leff.seeds import numpy_rng
from leff.server import Server
from leff.units import share_of
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, Update
from leff.wire.spool import Spool


class Fleet(Protocol):
    """Reaches the clients.

    A `steady` fleet has the same clients with the same capacities in every round.  Of another one,
    the round records who was there, so that a repeated round asks the same.
    """

    steady: bool

    def clients(self) -> Sequence[int]:
        """Return the ids of the available clients, in order."""
        ...

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        """Return the capacities of the clients that answer, in the order of ids."""
        ...

    def train(self, jobs: Sequence[Job]) -> Generator[Update]:
        """Run the jobs on the clients and yield the updates, one at a time, in any order.

        Closing it stops the clients that are still at work.
        """
        ...

    def measure(self, jobs: Sequence[MeasureJob]) -> Generator[Measure]:
        """Have the clients measure a model, and yield what they found, as `train` does."""
        ...

    def close(self) -> None:
        """Let the clients go, at the end of a run."""
        ...


@runtime_checkable
class Summing(Protocol):
    """A fleet whose clients can hold their updates for a secure sum (`leff.methods.secure`)."""

    def sum(self, asks: Mapping[int, SumAsk]) -> Generator[SumAnswer]:
        """Do a phase of a sum: ask each client, and yield what those answer that do."""
        ...


class Watcher:
    """Watches a round.  By default each method does nothing."""

    def planned(self, plan: Plan) -> None:
        """See the jobs before the clients get them."""

    def trained(self, update: Update) -> None:
        """See an update after the server has checked it."""

    def observe(self, plan: Plan, spool: Spool) -> Mapping[str, Any]:
        """Measure something before the merge, and return it as fields of the record."""
        return {}


class Leveller(Protocol):
    """Moves the head of a merged model to its clients' labels (`leff.methods.level`)."""

    def level(
        self,
        model: nn.Module,
        fleet: Fleet,
        server: Server,
        context: RoundContext,
        reports: Sequence[Capacity],
    ) -> Levelling:
        """Ask the round's clients what the model answers, and move its head, in place."""
        ...


class Privacy(Protocol):
    """Bounds what a round tells of one client (`leff.runs.private_rounds`)."""

    def choose(self, clients: Sequence[int], index: int) -> list[int]:
        """Return who takes part in round `index` (from 0), perhaps nobody."""
        ...

    def capped(self, reports: Sequence[Capacity]) -> list[Capacity]:
        """Return the reports with as many layers as may be trained."""
        ...

    def merge(
        self, method: Method, model: nn.Module, context: RoundContext, server: Server, fleet: Fleet
    ) -> Mapping[str, Any]:
        """Merge the round's updates, in place; return fields for the record."""
        ...


UNNEEDED = "not needed: enough others had answered"


def run_round(
    model: nn.Module,
    method: Method,
    fleet: Fleet,
    context: RoundContext,
    server: Server,
    share: float = 1.0,
    watcher: Watcher | None = None,
    spare: float = 0.0,
    leveller: Leveller | None = None,
    privacy: Privacy | None = None,
) -> RoundRecord:
    """Run one round with a `share` of the clients; the model is changed in place.

    With `privacy` it says who takes part, and merges; the record has no figure of a client's data.

    With `spare`, this share of clients more is asked, and the round ends once as many updates can
    be merged as were needed (over-selection, Bonawitz et al. 2019).

    An update that cannot be merged is refused and counted, and the round goes on.  So it does
    without a client whose report cannot be used, and if a message belongs to nobody.
    """
    watcher, times = watcher or Watcher(), [time.perf_counter()]
    rng = numpy_rng(context.seed, "clients", context.index)
    asked, needed, answers = _reports(fleet, context, share, spare, rng, privacy)
    reports, unfit = server.believed(asked, answers, len(blocks(model)))  # 1
    able = reports if privacy is None else privacy.capped(reports)
    plan = method.plan(model, context, able)  # 2
    schedule = schedule_jobs(model, plan, reports, server.holdings.missing, server.limits)
    schedule = replace(schedule, sat_out={**schedule.sat_out, **unfit})
    plan = schedule.plan
    times.append(time.perf_counter())
    watcher.planned(plan)
    left = server.open(model, plan.jobs, reports)  # all, unless a kill ended this round before
    enough = needed if len(asked) > needed else math.inf
    with closing(fleet.train(left if server.good < enough else [])) as updates:  # 3
        for update in updates:
            received = server.receive(update)
            if received is not None:
                watcher.trained(received)
            if server.good >= enough:
                break
    if len(server.spool.updates) < len(plan.jobs) and server.good >= enough:
        late = {job.client for job in plan.jobs} - set(server.spool.updates)
        schedule = replace(schedule, sat_out={**schedule.sat_out, **dict.fromkeys(late, UNNEEDED)})
    times.append(time.perf_counter())
    observed = watcher.observe(plan, server.spool)
    times.append(time.perf_counter())
    too_few: Mapping[str, int] = {}
    if privacy is not None:  # 4
        observed = {**observed, **privacy.merge(method, model, context, server, fleet)}
    else:
        too_few = merge_round(method, model, server.spool, server.guard)
    there = {client for client, update in server.spool.updates.items() if update.failure is None}
    trained = [report for report in reports if report.client in there]
    level = leveller and leveller.level(model, fleet, server, context, trained)
    times.append(time.perf_counter())
    jobs, updates, dropped = server.close()
    if privacy is not None:
        updates = [replace(update, norm=None, norms=()) for update in updates]
    record = round_record(context, reports, schedule, jobs, updates, dropped)
    for way in ("download_bytes", "upload_bytes"):
        sums = observed.get("secure", {}).get(way, 0)
        record = replace(record, **{way: getattr(record, way) + sums})
    names = ("plan_seconds", "train_seconds", "observe_seconds", "merge_seconds")
    seconds = dict(zip(names, np.diff(times).tolist(), strict=True))
    return replace(record, too_few=too_few or None, level=level, **observed, **seconds)


def _reports(
    fleet: Fleet,
    context: RoundContext,
    share: float,
    spare: float,
    rng: np.random.Generator,
    privacy: Privacy | None,
) -> tuple[list[int], int, list[Capacity]]:
    """Return the clients that are asked, how many of them are needed, and their reports.

    In a repeated round they are those of before.
    """
    decided = context.decided.get("clients")
    if decided is not None:
        reports = [from_json(Capacity, text) for text in decided["reports"]]
        return decided["asked"], decided["needed"], reports
    there = fleet.clients()
    if privacy is None:
        asked, needed = choose_clients(there, share, rng, spare), share_of(len(there), share)
    else:
        asked = privacy.choose(there, context.index)
        needed = len(asked)
    answers = fleet.report(asked)
    if not fleet.steady:
        texts = [to_json(answer) for answer in answers]
        context.decided["clients"] = {"asked": asked, "needed": needed, "reports": texts}
    return asked, needed, answers


def choose_clients(
    clients: Sequence[int], share: float, rng: np.random.Generator, spare: float = 0.0
) -> list[int]:
    """Return a share of the clients, at least one, in order; half a client counts as one.

    With `spare`, there are this share more of them, rounded up, if there are so many.  Raises
    RunError if there are no clients.
    """
    if not clients:
        raise RunError("no client can be reached, so there is no round; see clients.count")
    needed = share_of(len(clients), share)
    count = min(len(clients), math.ceil(round(needed * (1 + spare), 9)))
    places = rng.choice(len(clients), count, replace=False)
    return sorted(clients[int(place)] for place in places)
