"""Predicts a run's time and memory before it starts.

    forecast = Forecast(store.all())
    forecast.of(run)          # Prediction(seconds=118.0, bytes=310000000, basis="3 finished ...")

Seconds are the median of finished runs of this model on the same hardware: those of this method
on this task if there are any, else of this method, else all.  Runs that shared the cores with
others took longer than a run alone; `basis` says how many there are.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from leff.engines.local import worker_count
from leff.errors import ConfigError
from leff.methods.registry import spec_of
from leff.models.hardware import torch_device
from leff.models.known import KNOWN_CONFIGS
from leff.paper.cells import PaperRun
from leff.paper.results import Result, hardware
from leff.runs.budgets import UNSAID
from leff.runs.options import RunConfig
from leff.runs.plans import planned


@dataclass(frozen=True)
class Prediction:
    """What a run takes.  `seconds` is None if no similar run is finished."""

    seconds: float | None
    bytes: int | None  # None for an impossible run; `basis` says why
    basis: str


@dataclass
class Forecast:
    """Predicts runs: memory from plans, time from the results of other runs."""

    results: Sequence[Result]
    _plans: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def of(self, run: PaperRun) -> Prediction:
        """Return a run's prediction.  Raises ModelError if its model cannot be looked up."""
        try:
            plan = self._plan(run.config)
        except ConfigError as error:
            return Prediction(None, None, f"cannot be: {error}")
        held = plan["total_bytes"] * _workers(run.config) + plan["model_bytes"]
        seconds, basis = self._seconds(run.config)
        return Prediction(seconds, held, basis)

    def _plan(self, config: RunConfig) -> dict[str, Any]:
        """Return the plan of a run's largest client."""
        name = config.model.name.rpartition("/")[2].lower()
        model, method = name if name in KNOWN_CONFIGS else config.model.name, config.method.name
        layers = (
            {"layers": max(config.clients.layers or UNSAID)}
            if spec_of(method).trains_blocks
            else {}
        )
        training, length = config.training, config.data.max_length
        key = f"{config.model} {layers} {config.context} {config.method} {training} {length}"
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
                taken = (r["wall_seconds"] or r["round_seconds"] for r in finished)
                return statistics.median(taken), f"{runs} {what}{cut}"
        return None, "unknown: no run with this model is finished on this machine"


def _workers(config: RunConfig) -> int:
    """Return how many clients train at a time."""
    engine = config.engine
    workers = worker_count(engine.workers, torch_device(engine.device), engine.threads)
    return min(workers, config.clients.count)
