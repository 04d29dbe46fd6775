"""How long a run will take and what it will hold, before it starts.

    forecast = Forecast(store.all())
    forecast.of(run)          # Prediction(seconds=118.0, bytes=310000000, basis="3 finished ...")

Seconds are the median of finished runs of this model on the same hardware: of this method on this
task if there are some, else of this method, else of any.  Runs that shared the cores with others
took longer than a run alone does, and `basis` says how many did.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leff.engines.local import worker_count
from leff.errors import ConfigError
from leff.models.hardware import torch_device
from leff.models.known import KNOWN_CONFIGS
from leff.paper.cells import PaperRun
from leff.paper.results import Result, hardware
from leff.runs.options import RunConfig
from leff.runs.plans import planned


@dataclass(frozen=True)
class Prediction:
    """What a run takes.  `seconds` are None where no run like it is finished."""

    seconds: float | None
    bytes: int | None  # None for a run that cannot be; `basis` then says why
    basis: str


@dataclass
class Forecast:
    """Predicts runs from plans and from the results of others."""

    results: Sequence[Result]
    _plans: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def of(self, run: PaperRun) -> Prediction:
        """Return what a run will take.  Raises ModelError if its model cannot be looked up."""
        try:
            plan = self._plan(run.config)
        except ConfigError as error:
            return Prediction(None, None, f"cannot be: {error}")
        held = plan["total_bytes"] * _workers(run.config) + plan["model_bytes"]
        seconds, basis = self._seconds(run.config)
        return Prediction(seconds, held, basis)

    def _plan(self, config: RunConfig) -> dict[str, Any]:
        """Return what a client takes."""
        name = config.model.name.rpartition("/")[2].lower()
        model, method = name if name in KNOWN_CONFIGS else config.model.name, config.method.name
        layers = {"layers": max(config.clients.layers)} if method == "leff" else {}
        parts = (config.context, config.method, config.training.batch_size, config.data.max_length)
        key = f"{model} {layers} {parts}"
        if key not in self._plans:
            self._plans[key] = planned(model, method, config, **layers)
        return self._plans[key]

    def _seconds(self, config: RunConfig) -> tuple[float | None, str]:
        model, method, here = config.model.name.rpartition("/")[2], config.method.name, hardware()
        alike = [
            result
            for result in self.results
            if result["hardware"] == here and result["options"]["model"]["name"].endswith(model)
        ]
        own = [result for result in alike if result["method"] == method]
        same = [result for result in own if result["task"] == config.data.task]
        for finished, what in (
            (same, f"of {method} on this task with this model"),
            (own, f"of {method} with this model"),
            (alike, "with this model"),
        ):
            if finished:
                runs = "1 finished run" if len(finished) == 1 else f"{len(finished)} finished runs"
                untimed = sum(not result["wall_seconds"] for result in finished)
                cut = f", {untimed} of them cut or beside others" if untimed else ""
                return statistics.median(map(_taken, finished)), f"{runs} {what}{cut}"
        return None, "unknown: no run with this model is finished on this machine"


def _taken(result: Result) -> float:
    """Return a run's seconds: those of its rounds alone, where it was cut or shared its cores."""
    return result["wall_seconds"] or result["round_seconds"]


def _workers(config: RunConfig) -> int:
    """Return how many clients train at a time."""
    engine = config.engine
    workers = worker_count(engine.workers, torch_device(engine.device), engine.threads)
    return min(workers, config.clients.count)
