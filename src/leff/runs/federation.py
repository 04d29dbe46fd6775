"""A run: does the rounds that are left, measures and records each, and saves checkpoints.

    federation = prepare(config, RunFolder.new(path, config))      # leff.runs.prepare
    federation.run(progress)

`run` is the same for a new run and for a resumed one.
"""

import logging
import os
import platform
import time
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Protocol

from torch import nn

from leff.errors import BudgetError, CheckpointError, DataError, RunError
from leff.methods.method import Method, Plan, RoundContext
from leff.models import full_state
from leff.models.hardware import pinned_threads, torch_device
from leff.record import RoundRecord
from leff.round import Leveller, Watcher, run_round
from leff.runs.card import model_card
from leff.runs.checkpoints import Checkpoint
from leff.runs.folder import RunFolder, config_digest
from leff.runs.gap import measure_clients
from leff.runs.on_devices import OnDevices
from leff.runs.options import RunConfig
from leff.runs.population import Population
from leff.runs.private_rounds import Privacy
from leff.runs.sources import text_form
from leff.runs.trained import restore, save_model
from leff.runs.who import who
from leff.seeds import numpy_rng
from leff.server import Server
from leff.tasks.evaluator import Evaluator
from leff.tasks.partition import Partition
from leff.tasks.task import Task
from leff.wire.messages import Update
from leff.wire.spool import Spool

log = logging.getLogger("leff")


class Progress(Protocol):
    """Watches a run.  Every method may do nothing."""

    def started(self, federation: "Federation") -> None: ...
    def measured(self, record: RoundRecord) -> None: ...
    def planned(self, index: int, plan: Plan) -> None: ...
    def trained(self, index: int, update: Update) -> None: ...


class Silent:
    """A `Progress` that shows nothing."""

    def started(self, federation: "Federation") -> None: ...
    def measured(self, record: RoundRecord) -> None: ...
    def planned(self, index: int, plan: Plan) -> None: ...
    def trained(self, index: int, update: Update) -> None: ...


@dataclass
class Federation:
    """Everything that a run needs, ready to continue after round `done`."""

    config: RunConfig
    folder: RunFolder
    task: Task
    tokenizer: Any
    model: nn.Module
    clients: Population
    method: Method
    server: Server
    evaluator: Evaluator | None  # None if the devices alone measure
    digests: dict[str, str]  # of training data, start model and evaluation data
    on_devices: OnDevices | None = None  # None if the server alone measures
    leveller: Leveller | None = None  # None if the head is left as it is
    privacy: Privacy | None = None  # None if sums have no noise
    done: int = 0

    @property
    def metric(self) -> str:
        """The name of the headline metric: the server's, or else that of the devices."""
        if self.evaluator is not None:
            return self.evaluator.metric
        return self.on_devices.metric if self.on_devices is not None else ""

    def run(self, progress: Progress | None = None) -> dict[str, Any]:
        """Do the rounds that are left, write the result and the model, and return the result."""
        progress = progress or Silent()
        facts = {
            **environment(self.config, self.task.kind, self.clients.split, self.digests),
            "metric": self.metric,
        }
        split = self._split_report()
        self.folder.start(self.config, facts, split)
        self._check_data(facts)
        if self.folder.split() != split:
            log.warning("%s/split.json was lost or damaged; it is written anew", self.folder.path)
            self.folder.write_split(split)
        with pinned_threads(self.config.engine.threads):
            self._recover()
            progress.started(self)
            for record in self.folder.records():
                progress.measured(record)
            with closing(self.clients.fleet):
                if not self.folder.records():
                    self._measure_before(progress)
                for index in range(self.done, self.config.training.rounds):
                    if self.privacy is not None and not self.privacy.allows(index):
                        log.warning(
                            "the run ends after round %d: one more would pass privacy.epsilon = %g",
                            index,
                            self.config.privacy.epsilon,
                        )
                        break
                    try:
                        self._round(index, progress)
                    except BudgetError as error:
                        log.warning("the run ends after round %d: %s", index, error)
                        break
                return self._finish()

    def _split_report(self) -> list[dict[str, Any]]:
        """Return what is known of how the examples are divided; [] if devices have them."""
        split = self.clients.split
        if split is None:
            return []
        return split.report(self.task.labels if split.by == "label" else ())

    def _check_data(self, facts: dict[str, Any]) -> None:
        """Raise DataError if the data, the start model or the fleet changed since the start.

        A change of device or versions only warns: the last bits of results may differ.
        """
        recorded = self.folder.environment()
        for name in self.digests:
            if recorded.get(name) != facts[name]:
                raise DataError(
                    "the data, the start model or the fleet is not what "
                    f"{self.folder.path} was started with ({name} differs); put the files back, "
                    "or start a new run"
                )
        for name in ("device", "versions"):
            if recorded.get(name) != facts[name]:
                log.warning(
                    "%s: %s was %s at the start and is %s now, so last bits may differ",
                    self.folder.path,
                    name,
                    recorded.get(name),
                    facts[name],
                )

    def _recover(self) -> None:
        self.folder.clear_parts()
        self.method.begin(self.model)
        checkpoint = self.folder.load_checkpoint(self.folder.digest())
        if checkpoint is not None:
            self._restore(checkpoint)
        dropped = self.folder.cut_back(-1 if checkpoint is None else checkpoint.round)
        if dropped > (2 if checkpoint is None else 1):  # more than a kill leaves
            log.warning(
                "%s has lost checkpoints; it goes on after round %d, and %d records are made anew",
                self.folder.path,
                self.done,
                dropped,
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        restore(self.model, checkpoint)
        try:
            self.method.load_state(checkpoint.method)
            self.server.load_state(checkpoint.server)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the checkpoint of round {checkpoint.round} in {self.folder.path} was written by "
                f"another version ({error!r}); remove the folder checkpoints and resume, which "
                "starts again from the first round"
            ) from None
        self.done = checkpoint.round

    def _measure_before(self, progress: Progress) -> None:
        record = self._measured(RoundRecord(0))
        spent = {} if self.privacy is None else self.privacy.said()
        record = replace(record, before=self._full(record), **spent)
        self.folder.append(record)
        progress.measured(record)

    def _measured(self, record: RoundRecord) -> RoundRecord:
        """Return the record with the full model's loss and metric on validation examples.

        They are the server's, or else those of all devices' examples together.
        """
        started = time.perf_counter()
        values: dict[str, Any] = {}
        if self.on_devices is not None:
            found = self.on_devices.measure(
                self.model, self.clients.fleet, self.server, record.round
            )
            metric = found["metrics"][found["metric"]]
            values = {"devices": found, "loss": found["loss"], "metric": metric}
        if self.evaluator is not None:
            settings = self.config.evaluation
            values |= self.evaluator.quick(self.model, settings.examples, settings.texts)
        return replace(record, **values, evaluation_seconds=time.perf_counter() - started)

    def _full(self, record: RoundRecord) -> dict[str, Any]:
        """Return the model's figures before or after the run; `record` is of the same model."""
        if self.evaluator is not None:
            settings = self.config.evaluation
            return self.evaluator.full(self.model, settings.final_examples, settings.beams)
        found = record.devices or {}
        kept = {name: found[name] for name in ("examples", "loss", "metrics")}
        return {"split": "devices", **kept, "notes": {}, "texts": []}

    def _round(self, index: int, progress: Progress) -> None:
        started, evaluation = time.perf_counter(), self.config.evaluation
        training = self.config.training
        decided = self.folder.decisions(index)
        record = run_round(
            self.model,
            self.method,
            self.clients.fleet,
            RoundContext(index, self.config.seed, training.local(index), decided),
            self.server,
            self.config.clients.per_round,
            _Watch(self, index, progress),
            self.config.engine.spare if self.config.engine.name == "flower" else 0.0,
            self.leveller,
            self.privacy,
        )
        _check_failures(record, self.config.clients.per_round == 1, self.privacy is not None)
        if self.privacy is not None:
            record = replace(record, **self.privacy.said())
        if (index + 1) % evaluation.every == 0 or training.rounds - index <= evaluation.last:
            record = self._measured(record)
        record = replace(record, seconds=time.perf_counter() - started)
        self.folder.append(record)
        state = self.method.state(), self.server.state()
        self.folder.save_checkpoint(
            Checkpoint(index + 1, full_state(self.model), *state),
            self.folder.digest(),
            self.config.engine.checkpoints,
        )
        progress.measured(replace(record, seconds=time.perf_counter() - started))

    def observe(self, index: int, plan: Plan, spool: Spool) -> dict[str, Any]:
        """Measure how much some clients' training changes the full model's loss."""
        settings = self.config.evaluation
        if self.evaluator is None:
            return {}
        return measure_clients(
            self.model,
            plan.jobs,
            spool.accepted(),
            self.server.store.get,
            self.evaluator.examples("validation", settings.gap_examples),
            clients=settings.gap_clients,
            batch_size=settings.batch_size,
            rng=numpy_rng(self.config.seed, "gap", index),
            gradients=settings.gradient_error,
        )

    def _finish(self) -> dict[str, Any]:
        records = self.folder.records()
        clients = [client for record in records[1:] for client in record.clients]
        failures = [client.failure for client in clients if client.failure is not None]
        if len(failures) == len(clients):
            sat_out = [why for record in records[1:] for why in (record.sat_out or {}).values()]
            drawn = "no client was drawn; raise clients.per_round"
            reason = [*failures, *sat_out, drawn][0]
            raise RunError(f"no client's update could be used in any round ({reason})")
        first, last = records[0], records[-1]
        before, after = dict(first.before or {}), self._full(last)
        if self.on_devices is not None:
            before["devices"], after["devices"] = _figures(first), _figures(last)
        result: dict[str, Any] = {
            "task": self.task.name,
            "method": self.config.method.name,
            "rounds": last.round,
            "seed": self.config.seed,
            "metric": self.metric,
            "before": before,
            "after": after,
            "clients": who(self.config, self.clients),
            "failures": len(failures),
            "download_bytes": sum(client.download_bytes for client in clients)
            + sum(record.level.download_bytes for record in records if record.level)
            + sum(record.secure["download_bytes"] for record in records if record.secure),
            "upload_bytes": sum(client.upload_bytes for client in clients)
            + sum(record.secure["upload_bytes"] for record in records if record.secure),
        }
        if self.privacy is not None:
            result["privacy"] = self.privacy.summary()
        if self.task.labels:
            result["labels"] = list(self.task.labels)
        card = model_card(
            self.config, self.task, text_form(self.config, self.task, self.tokenizer), result
        )
        save_model(self.model, self.tokenizer, card, self.folder.path / "model")
        self.folder.clear_scratch()
        self.folder.write_result(result)
        return self.folder.result() or {}


def _figures(record: RoundRecord) -> dict[str, Any]:
    """Return what devices measured in a round, without bytes and seconds."""
    names = ("metric", "examples", "loss", "metrics", "worst", "clients")
    return {name: (record.devices or {})[name] for name in names}


class _Watch(Watcher):
    """Passes a round's events to `Progress`, and measures clients before the merge."""

    def __init__(self, federation: Federation, index: int, progress: Progress) -> None:
        self._federation, self._index, self._progress = federation, index, progress

    def planned(self, plan: Plan) -> None:
        self._progress.planned(self._index, plan)

    def trained(self, update: Update) -> None:
        self._progress.trained(self._index, update)

    def observe(self, plan: Plan, spool: Spool) -> dict[str, Any]:
        return self._federation.observe(self._index, plan, spool)


def _check_failures(record: RoundRecord, everyone: bool, private: bool) -> None:
    """Log who failed or sat out; `everyone` says that all clients were asked.

    Raises RunError if no update could be used.  Two rounds without an update go on, since the next
    one asks for something else: clients that all ran out of memory are asked for less, and if all
    sat out, a round that draws other clients may do better.  A `private` run goes on too: its end
    would tell who failed.
    """
    failed = [client for client in record.clients if client.failure is not None]
    sat_out = record.sat_out or {}
    for client, reason in sat_out.items():
        log.info("round %d: client %s sits out: %s", record.round, client, reason)
    if failed:
        first = failed[0].failure
        log.warning("round %d: refused %d updates (%s)", record.round, len(failed), first)
    if len(failed) < len(record.clients) or private:
        return
    if everyone and not record.clients:
        raise RunError(
            f"round {record.round}: every client sat out (the first: "
            f"{next(iter(sat_out.values()), 'no reason')}); give clients more memory or time"
        )
    if any(client.out_of_memory_bytes is None for client in failed):
        raise RunError(
            f"round {record.round}: no client's update could be used (the first: "
            f"{failed[0].failure}); if it is the loss, lower training.learning_rate"
        )
    log.warning("round %d changes nothing: no update could be used", record.round)


def environment(
    config: RunConfig, kind: str, split: Partition | None, digests: dict[str, str]
) -> dict[str, Any]:
    """Return what a run depends on beside its options: versions, machine, and digests."""
    names = ("leff", "torch", "transformers", "datasets", "flwr-datasets", "bitsandbytes", "numpy")
    return {
        "config_digest": config_digest(config),
        "kind": kind,
        **digests,
        "device": str(torch_device(config.engine.device)),
        "split_moved": 0 if split is None else split.moved,
        "split_redraws": 0 if split is None else split.redraws,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in names},
    }
