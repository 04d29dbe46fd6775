"""Experiment trackers: each round's figures and tables go to TensorBoard, Trackio, W&B or MLflow.

    tracker = TRACKERS["tensorboard"](Opening(Path("runs/a"), "a", {"seed": 0}))
    tracker.log(Entry(3, {"loss": 1.2}, {"clients": [{"client": 0, "layers": "2, 3"}]}, [2, 3]))
    tracker.close()

Where a run goes is the tracker's own business: its settings and environment variables hold
(`WANDB_MODE`, `MLFLOW_TRACKING_URI`, `TRACKIO_DIR`).  Only TensorBoard has no such place: its files
are in the run's folder.
"""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from leff.errors import ConfigError, nearest, shown
from leff.extras import need

PROJECT = "leff"  # of runs, where the tracker's own variable does not name another
Rows = Sequence[Mapping[str, Any]]  # of a table; all rows have the same columns


@dataclass(frozen=True)
class Opening:
    """A run to start in a tracker, or to go on with if its id there is `known`."""

    folder: Path
    name: str  # for people
    config: Mapping[str, Any]  # by flat keys, such as training.rounds
    known: str | None = None


@dataclass(frozen=True)
class Entry:
    """What a tracker gets at a time."""

    step: int  # the round
    values: Mapping[str, float]
    tables: Mapping[str, Rows] = field(default_factory=dict[str, Rows])
    layers: Sequence[int] = ()  # a layer's number for each time it was trained


class Tracker(Protocol):
    """A run in a tracker.  Its methods raise what the tracker's library raises."""

    id: str  # by which the tracker finds the run again

    def log(self, entry: Entry) -> None:
        """Add a round."""
        ...

    def close(self) -> None:
        """Send what is left, and end the run."""
        ...


def check_tracker(tracker: str) -> None:
    """Raise ConfigError for an unknown tracker, UsageError for one that is not installed."""
    if tracker not in TRACKERS:
        raise ConfigError(f"there is no tracker {shown(tracker)}{nearest(tracker, TRACKERS)}")
    need(tracker, f"the tracker {tracker}")


class TensorBoard:
    """Event files in `tensorboard` of the run's folder: scalars, a histogram, text tables."""

    def __init__(self, run: Opening) -> None:
        self.id = run.name
        self._writer = _library("torch.utils.tensorboard").SummaryWriter(run.folder / "tensorboard")
        if run.known is None:
            rows = [{"option": key, "value": value} for key, value in run.config.items()]
            self._writer.add_text("config", _markdown(rows))

    def log(self, entry: Entry) -> None:
        for key, value in entry.values.items():
            self._writer.add_scalar(key, value, entry.step)
        for key, rows in entry.tables.items():
            self._writer.add_text(key, _markdown(rows), entry.step)
        if entry.layers:
            self._writer.add_histogram(
                "layers trained", np.asarray(entry.layers), entry.step, _edges(entry.layers)
            )
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbLike:
    """Weights & Biases, or Trackio, which has the same functions."""

    def __init__(self, run: Opening) -> None:
        self.id = run.known or f"{run.name}-{secrets.token_hex(4)}"
        self._library = self._start(run)

    def _start(self, run: Opening) -> Any:
        """Start the run, and return the library."""
        raise NotImplementedError

    def log(self, entry: Entry) -> None:
        sent: dict[str, Any] = dict(entry.values)
        for key, rows in entry.tables.items():
            cells = [list(row.values()) for row in rows]
            sent[key] = self._library.Table(columns=list(rows[0]), data=cells)
        if entry.layers:
            counted = np.histogram(entry.layers, _edges(entry.layers))
            sent["layers trained"] = self._library.Histogram(np_histogram=counted)
        self._library.log(sent, step=entry.step)

    def close(self) -> None:
        self._library.finish()


class Wandb(WandbLike):
    """Project `WANDB_PROJECT`, else `leff`; `WANDB_MODE=offline` keeps all on this machine."""

    def _start(self, run: Opening) -> Any:
        wandb, project = _library("wandb"), os.environ.get("WANDB_PROJECT", PROJECT)
        wandb.init(
            project=project, name=run.name, id=self.id, resume="allow", config=dict(run.config)
        )
        return wandb


class Trackio(WandbLike):
    """Project `TRACKIO_PROJECT`, else `leff`, in a database of this machine unless told else."""

    def _start(self, run: Opening) -> Any:
        trackio, project = _library("trackio"), os.environ.get("TRACKIO_PROJECT", PROJECT)
        trackio.init(project, name=self.id, resume="allow", config=dict(run.config), embed=False)
        return trackio


class MLflow:
    """Experiment `MLFLOW_EXPERIMENT_NAME`, else `leff`, at `MLFLOW_TRACKING_URI`."""

    def __init__(self, run: Opening) -> None:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        self._client = _library("mlflow").MlflowClient()
        if run.known is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            self.id: str = self._client.create_run(place, run_name=run.name).info.run_id
            for key, value in run.config.items():
                self._client.log_param(self.id, key, value)
        else:
            self.id = run.known
            self._client.update_run(run.known, status="RUNNING")

    def log(self, entry: Entry) -> None:
        for key, value in entry.values.items():
            self._client.log_metric(self.id, key, value, step=entry.step)
        for (
            key,
            rows,
        ) in entry.tables.items():  # one table of all rounds: a run may have few of them
            columns = {"round": [entry.step] * len(rows)}
            columns |= {column: [row[column] for row in rows] for column in rows[0]}
            self._client.log_table(self.id, columns, f"{key}.json")

    def close(self) -> None:
        self._client.set_terminated(self.id)


TRACKERS: Mapping[str, Callable[[Opening], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": MLflow,
}


def _library(name: str) -> Any:
    """Return a tracker's module.  None of them has types."""
    return import_module(name)


def _edges(layers: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return edges of a histogram with one bin a layer."""
    return np.arange(max(layers) + 2) - 0.5


def _markdown(rows: Rows) -> str:
    """Return a table of Markdown; line breaks and bars in a cell do not end it."""
    cells = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    texts = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)
