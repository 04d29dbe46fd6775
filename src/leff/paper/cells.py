"""From a table or figure to its runs: a cell is a row, a point and a task, with a run a seed.

    found = cells(experiment, common, Selection(size="mini", rows=("LEFF",)))
    found[0].runs[0].config, found[0].runs[0].key

A run's key (`leff.paper.keys`) is the digest of what its figures depend on, so tables share runs.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leff.errors import ConfigError, DataError, nearest
from leff.paper.experiment import SIZES, Common, Experiment, Options
from leff.paper.keys import run_key
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.tasks.sources.files import DATA_VARIABLE


@dataclass(frozen=True)
class Selection:
    """Which part of a table or figure, and with what; labels in any case, none for all.

    Raises ConfigError for an unknown size.
    """

    size: str = "mini"
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    model: str | None = None
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError(f"--size cannot be {self.size!r}{nearest(self.size, SIZES)}")

    @property
    def whole(self) -> bool:
        """Whether this is all of it, with the size's own models."""
        parts = (self.rows, self.columns, self.points, self.seeds)
        return not (any(parts) or self.model)


@dataclass(frozen=True)
class PaperRun:
    """One run of a cell."""

    row: str
    point: str
    task: str
    seed: int
    config: RunConfig
    key: str  # of its result
    command: str  # that makes it

    @property
    def label(self) -> str:
        names = (self.row, self.point, self.task, f"seed {self.seed}")
        return ", ".join(name for name in names if name)


@dataclass(frozen=True)
class Cell:
    """A row at a point on a task: its runs, or why there are none."""

    row: str
    point: str  # "" where the experiment has no axis
    task: str
    columns: tuple[str, ...]  # of the task's, those that are asked for
    runs: tuple[PaperRun, ...] = ()
    absent: str = ""
    left_out: bool = False  # by the size

    @property
    def label(self) -> str:
        return " ".join(name for name in (self.row, self.point, self.task) if name)


def cells(experiment: Experiment, common: Common, selection: Selection) -> list[Cell]:
    """Return every cell that is asked for.

    Raises ConfigError for an unknown row, column or point, an option that does not check, or a
    cell asked for by name that this size leaves out; DataError if such a cell's file is missing.
    """
    rows = chosen("row", selection.rows, experiment.rows, experiment)
    columns = _columns(experiment, common, selection.columns)
    points = _points(experiment, selection)
    return [
        _cell(experiment, common, selection, row, point, task, tuple(asked))
        for row in rows
        for point in points
        for task, asked in columns.items()
    ]


def _columns(
    experiment: Experiment, common: Common, wanted: tuple[str, ...]
) -> dict[str, list[str]]:
    """Return the columns asked for, by task; a task's name stands for all of its columns."""
    known = {task: list(common.tasks[task].metrics) for task in experiment.tasks}
    labels = [*known, *(label for own in known.values() for label in own if label not in known)]
    asked = set(chosen("column", wanted, labels, experiment))
    found = {
        task: own if task in asked else [label for label in own if label in asked]
        for task, own in known.items()
    }
    return {task: own for task, own in found.items() if own}


def _points(experiment: Experiment, selection: Selection) -> list[str]:
    """Return the points asked for, of those that the size has; one without a name if none are."""
    if selection.points and not experiment.points:
        raise ConfigError(
            f"{experiment.spoken} has no points; --point is for figures along an axis"
        )
    asked = chosen("point", selection.points, experiment.points, experiment)
    kept = experiment.size(selection.size).points or asked
    for point in asked if selection.points else []:
        if point not in kept:
            raise _left_out_error(experiment, selection.size, point, kept)
    return [point for point in asked if point in kept] or [""]


def chosen(
    what: str, wanted: tuple[str, ...], known: Iterable[str], experiment: Experiment
) -> list[str]:
    """Return the known labels that are wanted, in their own order; all if none is."""
    known = list(known)
    lower = {label.lower(): label for label in known}
    for label in wanted:
        if label.lower() not in lower:
            raise ConfigError(
                f"{experiment.spoken} has no {what} {label!r}; it has {', '.join(known)}"
            )
    asked = {lower[label.lower()] for label in wanted} or set(known)
    return [label for label in known if label in asked]


def _cell(
    experiment: Experiment,
    common: Common,
    selection: Selection,
    row: str,
    point: str,
    task: str,
    columns: tuple[str, ...],
) -> Cell:
    if _left_out(experiment, selection, row, task):
        return Cell(row, point, task, columns, absent=f"not in {selection.size}", left_out=True)
    if task in experiment.rows[row].absent:
        reason = experiment.rows[row].absent[task]
        if selection.rows and selection.columns:
            raise ConfigError(f"{experiment.spoken} has no {row} on {task}: {reason}")
        return Cell(row, point, task, columns, absent=reason)
    files, lacking = _needed(experiment.rows[row].needs, selection.data_dir)
    if lacking:
        if selection.rows:
            raise DataError(f"{experiment.spoken}, {row}: {lacking}")
        return Cell(row, point, task, columns, absent=lacking)
    options = _options(experiment, common, selection, row, point, task) | files
    extent = experiment.size(selection.size)
    seeds = selection.seeds or tuple(extent.seeds_at.get(point, extent.seeds))
    runs = (
        _run(experiment, selection, row, point, task, {**options, "seed": seed}) for seed in seeds
    )
    return Cell(row, point, task, columns, tuple(runs))


def _left_out(experiment: Experiment, selection: Selection, row: str, task: str) -> bool:
    """Return whether the size leaves a cell out; ConfigError if it was asked for by name."""
    extent = experiment.size(selection.size)
    for name, kept, asked in (
        (row, extent.rows, selection.rows),
        (task, extent.tasks, selection.columns),
    ):
        if kept and name not in kept:
            if asked:
                raise _left_out_error(experiment, selection.size, name, kept)
            return True
    return False


def _left_out_error(
    experiment: Experiment, size: str, name: str, kept: Sequence[str]
) -> ConfigError:
    """Return what to raise for a name that was asked for and that the size leaves out."""
    return ConfigError(
        f"{experiment.spoken} at size {size} has no {name}, only {', '.join(kept)}; take one of "
        "those, or --size full"
    )


def _options(
    experiment: Experiment, common: Common, selection: Selection, row: str, point: str, task: str
) -> Options:
    """Return a cell's options, all but the seed; later sources win."""
    size, entry = common.size(selection.size), common.tasks[task]
    method = experiment.method(row)
    if entry.group not in size.groups:
        raise ConfigError(
            f"common.toml says nothing of {task} at size {selection.size}; add "
            f"[{selection.size}.groups.{entry.group}]"
        )
    found = {
        **size.groups[entry.group],
        **entry.options,
        **size.tasks.get(task, {}),
        **common.methods[method],
        "training.learning_rate": _rate(common, selection.size, method, task),
        **experiment.options,
        **experiment.size(selection.size).options,
        **experiment.rows[row].options,
        **(experiment.points[point] if point else {}),
    }
    if selection.model:
        found["model.name"] = selection.model
    if selection.data_dir:
        found |= {"data.folder": selection.data_dir, "proxy.folder": selection.data_dir}
    return found


def _rate(common: Common, size: str, method: str, task: str) -> float:
    """Return a method's learning rate on a task: the task's own, or its group's."""
    group, rates = common.tasks[task].group, common.size(size).rates.get(method, {})
    for name in (task, group):
        if name in rates:
            return rates[name]
    raise ConfigError(
        f"common.toml has no learning rate of {method} on {group}; add it to [{size}.rates]"
    )


def _needed(needs: Mapping[str, str], data_dir: Path | None) -> tuple[Options, str]:
    """Return the files that a row needs as options, and what to say if one is not there."""
    root = data_dir or os.environ.get(DATA_VARIABLE) or None
    found: Options = {}
    for option, name in needs.items():
        if root is None:
            return {}, f"no data: {name} is needed; name its folder with --data-dir or LEFF_DATA"
        places = [Path(root) / name, Path(root) / f"{name}.gz"]
        there = next((place.absolute() for place in places if place.is_file()), None)
        if there is None:
            return {}, f"no data: there is no {places[0]}, with or without .gz"
        found[option] = there
    return found, ""


def _run(
    experiment: Experiment, selection: Selection, row: str, point: str, task: str, options: Options
) -> PaperRun:
    try:
        config = load_config(None, options)
    except ConfigError as error:
        raise ConfigError(f"{experiment.spoken}, {row}, {task}: {error}") from None
    command = ["leff", *experiment.words, "--size", selection.size]
    command += ["--row", row, "--column", task, *(["--point", point] if point else [])]
    command += ["--seed", str(config.seed)]
    command += ["--model", config.model.name] if selection.model else []
    return PaperRun(row, point, task, config.seed, config, run_key(config), shlex.join(command))
