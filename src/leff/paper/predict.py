"""How long a run will take and what it will hold, before it starts.

    forecast = Forecast(common, "mini", store.all())
    forecast.of(run)          # Prediction(seconds=118.0, bytes=310000000, ...)

Operations are counted from plans (`capacity`), at the mean length of the task's texts.  Seconds
come from finished runs of this model on the same hardware, of this method if there are some: the
median of their seconds per counted operation.  Those of runs that shared the cores with others are
too long for a run alone, and `basis` says how many did.  Without any they come from the speed of a
matrix product on this machine, which is a guess: small models spend their time on other things.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leff.engines.local import worker_count
from leff.errors import ConfigError
from leff.models.hardware import torch_device
from leff.models.known import KNOWN_CONFIGS
from leff.paper.cells import PaperRun
from leff.paper.experiment import Common, TaskEntry
from leff.paper.results import Result, hardware
from leff.runs.config import RunConfig
from leff.runs.plans import planned

BACKWARD = 2  # operations of a backward pass, in forward passes, where everything trains
EFFICIENCY = 0.5  # a training step's speed in a large matrix product's; between .2 and .8 here


@dataclass(frozen=True)
class Prediction:
    """What a run takes; None where that cannot be said, and `basis` says why, or from what."""

    seconds: float | None
    bytes: int | None
    operations: float | None
    basis: str


@dataclass
class Forecast:
    """Predicts runs from plans and from the results of others."""

    common: Common
    size: str
    results: Sequence[Result]
    _plans: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    _speed: float | None = None

    def of(self, run: PaperRun) -> Prediction:
        """Return what a run will take.  Raises ModelError if its model cannot be looked up."""
        config, entry = run.config, self.common.tasks[run.task]
        try:
            plan = self._plan(config, config.method.name, config.data.max_length)
        except ConfigError as error:
            return Prediction(None, None, None, f"cannot be: {error}")
        workers = _workers(config)
        length = self.common.size(self.size).tokens.get(run.task, entry.tokens)
        operations = self.operations(config, entry, min(length, config.data.max_length))
        seconds, basis = self._seconds(config, operations, workers)
        held = plan["total_bytes"] * workers + plan["model_bytes"]
        return Prediction(seconds, held, operations, basis)

    def operations(self, config: RunConfig, entry: TaskEntry, length: int) -> float:
        """Return the operations of a run: training, evaluation, and distillation of students.

        `length` is that of the texts, in tokens.
        """
        training, evaluation = config.training, config.evaluation
        step = self._plan(config, config.method.name, length)["step_flops"]
        whole = self._plan(config, "fedavg", length)["step_flops"]
        batch = training.batch_size
        forward = whole / (1 + BACKWARD) / batch  # of one example
        examples = min(config.data.train_examples or entry.train_rows, entry.train_rows)
        trained = examples * training.epochs * training.rounds * config.clients.per_round
        final = min(evaluation.final_examples or entry.test_rows, entry.test_rows)
        quick = evaluation.examples * (training.rounds // evaluation.every + 1)
        total = trained * step / batch + forward * (2 * final * evaluation.beams + quick)
        if config.method.name == "leff" and "distil" in (
            config.context.name,
            config.context.suffix,
        ):
            steps = (
                training.rounds * config.context.steps * 2
            )  # each layer before and after a block
            total += steps * whole * config.proxy.batch_size / batch
        return total

    def _plan(self, config: RunConfig, method: str, length: int) -> dict[str, Any]:
        """Return what a client takes in a step on texts of that many tokens."""
        name = config.model.name.rpartition("/")[2].lower()
        model = name if name in KNOWN_CONFIGS else config.model.name
        layers = {"layers": max(config.clients.layers)} if method == "leff" else {}
        parts = (config.context, config.method, config.training.batch_size, length)
        key = json.dumps([model, method, layers, *map(str, parts)])
        if key not in self._plans:
            data = config.data.model_copy(update={"max_length": length})
            asked = config.model_copy(update={"data": data})
            self._plans[key] = planned(model, method, asked, **layers)
        return self._plans[key]

    def _seconds(self, config: RunConfig, operations: float, workers: int) -> tuple[float, str]:
        model, method = config.model.name.rpartition("/")[2], config.method.name
        here = hardware()
        same_model = [
            result
            for result in self.results
            if result["hardware"] == here
            and result["operations"]
            and result["options"]["model"]["name"].endswith(model)
        ]
        same = [r for r in same_model if r["method"] == method]
        for found, what in (
            (same, f"of {method} with this model"),
            (same_model, "with this model"),
        ):
            if found:
                rate = statistics.median(_taken(r) / r["operations"] for r in found)
                runs = "1 finished run" if len(found) == 1 else f"{len(found)} finished runs"
                untimed = sum(not r["wall_seconds"] for r in found)
                said = f", {untimed} of them cut or beside others" if untimed else ""
                return operations * rate, f"{runs} {what}{said}"
        if self._speed is None:
            self._speed = product_speed(config.engine.device)
        seconds = operations / (self._speed * EFFICIENCY * workers)
        return seconds, "the speed of a matrix product on this machine"


def _taken(result: Result) -> float:
    """Return a run's seconds: those of its rounds alone, where it was cut or shared its cores."""
    return result["wall_seconds"] or result["round_seconds"]


def _workers(config: RunConfig) -> int:
    """Return how many clients train at a time."""
    engine = config.engine
    found = worker_count(engine.workers, torch_device(engine.device), engine.threads)
    return min(found, config.clients.count)


def product_speed(device: str, size: int = 512, least_seconds: float = 0.2) -> float:
    """Return operations a second of fp32 matrix products, on one thread of a CPU."""
    import torch

    from leff.models.hardware import pinned_threads

    place = torch_device(device)
    a = torch.ones(size, size, device=place)
    with pinned_threads(1):
        float((a @ a)[0, 0])  # the first one also loads the library
        started, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - started) < least_seconds:
            float((a @ a)[0, 0])
            count += 1
    return 2 * size**3 * count / passed
