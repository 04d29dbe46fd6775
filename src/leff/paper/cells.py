"""The cells of a table or figure, and their runs.

    row = cells(experiment, common, Selection(size="mini", rows=("LEFF",)))
    row[0].runs[0].config, row[0].runs[0].key

A cell is a row, a point and a task, with a run for each seed.  Tables share runs of equal keys.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leff.errors import ConfigError, DataError, nearest
from leff.paper.experiment import SIZES, Common, Experiment, Options
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.sweeps.keys import run_key
from leff.tasks.sources.files import DATA_VARIABLE


@dataclass(frozen=True)
class Selection:
    """The part of a table or figure that is asked for.  No labels mean all; case is ignored.

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
        """Whether everything is asked for, with the size's own models."""
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
    key: str  # of its result file
    command: str  # makes this run alone

    @property
    def label(self) -> str:
        names = (self.row, self.point, self.task, f"seed {self.seed}")
        return ", ".join(name for name in names if name)


@dataclass(frozen=True)
class Cell:
    """A row at a point on a task, with its runs or the reason why it has none."""

    row: str
    point: str  # "" where the experiment has no axis
    task: str
    columns: tuple[str, ...]  # those of the task's columns that are asked for
    runs: tuple[PaperRun, ...] = ()
    absent: str = ""  # why there are no runs
    left_out: bool = False  # the size does not have this cell

    @property
    def label(self) -> str:
        return " ".join(name for name in (self.row, self.point, self.task) if name)


def cells(experiment: Experiment, common: Common, selection: Selection) -> list[Cell]:
    """Return every cell that is asked for.

    Raises ConfigError for an unknown row, column or point, a wrong option, and a cell asked for by
    name that the size does not have.  Raises DataError if a row asked for by name lacks its file.
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
    """Return the columns asked for, by task; a task's name means all its columns."""
    known = {task: list(common.tasks[task].metrics) for task in experiment.tasks}
    labels = [*known, *(label for own in known.values() for label in own if label not in known)]
    asked = set(chosen("column", wanted, labels, experiment))
    kept = {
        task: own if task in asked else [label for label in own if label in asked]
        for task, own in known.items()
    }
    return {task: own for task, own in kept.items() if own}


def _points(experiment: Experiment, selection: Selection) -> list[str]:
    """Return the points asked for that the size has; [""] for an experiment without points."""
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
    """Return the known labels that are wanted, in the known order; all if none is wanted."""
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
    """Return whether the size lacks a cell; ConfigError if it is asked for by name."""
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
    """Return the error for a name that is asked for and that the size does not have."""
    return ConfigError(
        f"{experiment.spoken} at size {size} has no {name}, only {', '.join(kept)}; take one of "
        "those, or --size full"
    )


def _options(
    experiment: Experiment, common: Common, selection: Selection, row: str, point: str, task: str
) -> Options:
    """Return a cell's options except the seed; later sources win."""
    size, entry = common.size(selection.size), common.tasks[task]
    method = experiment.method(row)
    if entry.group not in size.groups:
        raise ConfigError(
            f"common.toml says nothing of {task} at size {selection.size}; add "
            f"[{selection.size}.groups.{entry.group}]"
        )
    merged = {
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
        merged["model.name"] = selection.model
    if selection.data_dir:
        merged |= {"data.folder": selection.data_dir, "proxy.folder": selection.data_dir}
    return merged


def _rate(common: Common, size: str, method: str, task: str) -> float:
    """Return a method's learning rate on a task: the task's, else its group's."""
    group, rates = common.tasks[task].group, common.size(size).rates.get(method, {})
    for name in (task, group):
        if name in rates:
            return rates[name]
    raise ConfigError(
        f"common.toml has no learning rate of {method} on {group}; add it to [{size}.rates]"
    )


def _needed(needs: Mapping[str, str], data_dir: Path | None) -> tuple[Options, str]:
    """Return the files that a row needs as options, and the problem if one is missing."""
    root = data_dir or os.environ.get(DATA_VARIABLE) or None
    located: Options = {}
    for option, name in needs.items():
        if root is None:
            return {}, f"no data: {name} is needed; name its folder with --data-dir or LEFF_DATA"
        places = [Path(root) / name, Path(root) / f"{name}.gz"]
        there = next((place.absolute() for place in places if place.is_file()), None)
        if there is None:
            return {}, f"no data: there is no {places[0]}, with or without .gz"
        located[option] = there
    return located, ""


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
