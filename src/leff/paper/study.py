"""One table or figure as a whole: its cells, its results, what is missing, its values.

study = Study.open("table1", Selection(rows=("LEFF",)), Places())
failures = study.fill(jobs=1)
study.values(failures)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from leff.errors import ConfigError, LeffError
from leff.methods.registry import spec_of
from leff.paper.cells import Cell, PaperRun, Selection, cells
from leff.paper.experiment import (
    Common,
    Experiment,
    experiments_folder,
    read_common,
    read_experiment,
)
from leff.paper.predict import Forecast, Prediction
from leff.paper.results import PUBLISHED, Result, ResultStore, collect
from leff.paper.values import Value, metric_values, round_values
from leff.runs.sources import SOURCE, load_source
from leff.sweeps.workshop import Workshop, sweep


@dataclass(frozen=True)
class Places:
    """Folders; without one of experiments, LEFF's own and its published results are taken."""

    experiments: Path | None = None
    results: Path = Path("results")
    runs: Path = Path("runs") / "paper"


@dataclass
class Study:
    """A table or figure at one size, or the part of it that was asked for."""

    experiment: Experiment
    common: Common
    selection: Selection
    places: Places
    cells: list[Cell]
    store: ResultStore
    results: dict[str, Result] = field(default_factory=dict[str, Result])

    @classmethod
    def open(cls, name: str, selection: Selection, places: Places) -> "Study":
        """Read the experiment and the results that exist.

        Raises ConfigError for unknown names, DataError for result files that cannot be used.
        """
        folder = experiments_folder(places.experiments)
        common, experiment = read_common(folder), read_experiment(folder, name)
        counts = experiment.kind == "counts"
        own_cells = [] if counts else cells(experiment, common, selection)
        published = None if places.experiments else PUBLISHED / selection.size
        store = ResultStore(places.results / selection.size, published)
        study = cls(experiment, common, selection, places, own_cells, store)
        study.results = study.store.read_all(study.runs)
        return study

    @property
    def runs(self) -> list[PaperRun]:
        """All runs, each once, ordered by seed."""
        by_key = {run.key: run for cell in self.cells for run in cell.runs}
        return sorted(by_key.values(), key=lambda run: run.seed)

    @property
    def missing(self) -> list[PaperRun]:
        """The runs that have no result yet."""
        return [run for run in self.runs if run.key not in self.results]

    @cached_property
    def _forecast(self) -> Forecast:
        return Forecast(self.store.all())

    def prediction(self, run: PaperRun) -> Prediction:
        """Return a run's prediction.  Raises ModelError if its model cannot be looked up."""
        return self._forecast.of(run)

    def impossible(self) -> dict[str, str]:
        """Return, by key, why missing runs are impossible, such as BitFit without biases."""
        predictions = {run.key: self.prediction(run) for run in self.missing}
        return {key: each.basis for key, each in predictions.items() if each.bytes is None}

    def fill(
        self, jobs: int = 0, keep: bool = False, say: Callable[[str], None] = lambda text: None
    ) -> dict[str, str]:
        """Run what is missing and possible; return error messages by the key of the run.

        Raises ConfigError, DataError or ModelError before any run if one of them cannot start.
        """
        check_methods(self.missing)
        impossible = self.impossible()
        runs = [run for run in self.missing if run.key not in impossible]
        check_data(runs)

        def finish(run: PaperRun, folder: Path, seconds: float | None) -> None:
            self.store.write(run, collect(folder, seconds))
            done(run)

        def done(run: PaperRun) -> bool:
            result = self.store.read(run)
            if result is not None:
                self.results[run.key] = result
            return result is not None

        return sweep(runs, Workshop(self.places.runs, jobs, keep), finish, say, done)

    def values(self, failures: Mapping[str, str] | None = None) -> list[Value]:
        """Return the values that the table or figure shows."""
        if self.experiment.kind == "rounds":
            return round_values(self.cells, self.results, failures or {})
        averages = not self.selection.columns
        return metric_values(
            self.experiment, self.common, self.cells, self.results, failures or {}, averages
        )


def check_methods(runs: list[PaperRun]) -> None:
    """Raise ConfigError for an unknown method."""
    for run in runs:
        try:
            spec_of(run.config.method.name)
        except ConfigError as error:
            raise ConfigError(f"{run.row}: {error}") from None


def check_data(runs: list[PaperRun]) -> None:
    """Load all data of the runs once, so that missing data is reported before any work.

    Raises DataError or ConfigError, naming the cell, the file and where it was looked for.
    """
    seen: set[str] = set()
    for run in runs:
        uses_proxy = spec_of(run.config.method.name).trains_blocks
        for source in (run.config.data, *([run.config.proxy] if uses_proxy else ())):
            key = source.model_dump_json(include=set(SOURCE))
            if key in seen:
                continue
            seen.add(key)
            try:
                load_source(source)
            except LeffError as error:
                raise type(error)(
                    f"{run.row}, {run.task}: {error}; or leave the cell out with --row or --column"
                ) from None
