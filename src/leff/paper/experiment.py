"""A table or figure, as its file in `experiments` beside this one describes it.

    folder = experiments_folder()
    common, experiment = read_common(folder), read_experiment(folder, "table1")
    experiment.rows["LEFF"], experiment.mini.seeds

`common.toml` holds what all of them share: methods, tasks, and the settings of the two sizes.
"""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from leff.errors import ConfigError, key_part, shown
from leff.toml import read_toml

SIZES = ("mini", "full")
COMMON = "common.toml"
Options = dict[str, Any]  # dotted keys of RunConfig
Kind = Literal["table", "deviation", "counts", "points", "bars", "rounds"]
Part = TypeVar("Part", bound=BaseModel)
Used = tuple[Iterable[str], Iterable[str]]  # names that exist, and names that are used


class Strict(BaseModel):
    """Frozen, without unknown keys, and without values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Group(Strict):
    """Tasks that share settings and an average."""

    average: str = ""  # label of the column with their average; "": no such column
    scale: float = 1.0  # 100 for points
    digits: int = 4
    measured_on: str = ""  # the examples behind a run's final metrics


class TaskEntry(Strict):
    """A task: its options and its columns."""

    group: str
    metrics: dict[str, str]  # column label -> the metric's name in results
    options: Options


class SizeSettings(Strict):
    """What one size means for every experiment."""

    note: str
    notes: dict[str, str]  # by group
    groups: dict[str, Options]
    tasks: dict[str, Options] = {}
    rates: dict[str, dict[str, float]]  # learning rate by method, and by task or group


class Common(Strict):
    """The file `common.toml`."""

    methods: dict[str, Options]
    groups: dict[str, Group]
    tasks: dict[str, TaskEntry]
    mini: SizeSettings
    full: SizeSettings

    def size(self, name: str) -> SizeSettings:
        return self.mini if name == "mini" else self.full


class Row(Strict):
    """A row (in a figure, a line or a bar): a method, and options that override its own."""

    method: str = ""  # by default the row's label
    options: Options = {}
    needs: dict[str, str] = {}  # option -> a file below the data folder
    absent: dict[str, str] = {}  # task -> why the row has no run there


class Extent(Strict):
    """The part of an experiment that one size runs; an empty list means all."""

    seeds: list[int] = Field(min_length=1)
    seeds_at: dict[str, list[int]] = {}  # by point
    rows: list[str] = []
    tasks: list[str] = []
    points: list[str] = []
    options: Options = {}
    note: str = ""


class PaperPoint(Strict):
    """The published table that has a figure's values, at one of its points."""

    table: str
    point: str


class Experiment(Strict):
    """One table or figure."""

    name: str
    title: str
    caption: str
    kind: Kind = "table"
    tasks: list[str] = []
    rows: dict[str, Row] = {}
    points: dict[str, Options] = {}  # label on the horizontal axis -> options
    axis: str = ""  # the axis's name
    options: Options = {}
    paper: PaperPoint | None = None
    models: list[str] = []  # rows of a table that is counted, not run
    mini: Extent = Extent(seeds=[0])
    full: Extent = Extent(seeds=[0])

    @property
    def words(self) -> list[str]:
        """The name as the command line writes it: table, 1."""
        return _words(self.name)

    @property
    def spoken(self) -> str:
        """The name as people write it: table 1."""
        return " ".join(self.words)

    def size(self, name: str) -> Extent:
        return self.mini if name == "mini" else self.full

    def method(self, row: str) -> str:
        return self.rows[row].method or row


def experiments_folder(folder: Path | None = None) -> Path:
    """Return the folder of experiments: the given one, or the one that comes with LEFF.

    Raises ConfigError if there are none in it.
    """
    path = folder or Path(__file__).parent / "experiments"
    if not (path / COMMON).is_file():
        raise ConfigError(f"there are no experiments in {path} (no {COMMON}); see --experiments")
    return path


def known_experiments(folder: Path) -> list[str]:
    """Return the names of the tables and figures that have a file."""
    names = (path.stem for path in folder.glob("*.toml"))
    numbered = (name for name in names if re.fullmatch(r"(table|figure)[0-9]+", name))
    return sorted(numbered, key=lambda name: (_words(name)[0], int(_words(name)[1])))


def read_common(folder: Path) -> Common:
    """Return the settings that experiments share.  Raises ConfigError."""
    path = folder / COMMON
    file = _parse(Common, read_toml(path), path)
    for task, entry in file.tasks.items():
        if entry.group not in file.groups:
            raise ConfigError(
                f"{path}: {task} is of a group {entry.group!r}; there are {', '.join(file.groups)}"
            )
    known: dict[str, Used] = {}
    for name in SIZES:
        size = file.size(name)
        rated = [each for own in size.rates.values() for each in own]
        known |= {
            f"{name} group": (file.groups, [*size.notes, *size.groups]),
            f"{name} task": (file.tasks, size.tasks),
            f"method in {name}.rates": (file.methods, size.rates),
            f"task or group in {name}.rates": ([*file.tasks, *file.groups], rated),
        }
    _check_names(known, path)
    return file


def read_experiment(folder: Path, name: str) -> Experiment:
    """Return the experiment `name`, such as table1.  Raises ConfigError, listing what exists."""
    known = known_experiments(folder)
    if name not in known:
        listed = ", ".join(map(" ".join, map(_words, known)))
        raise ConfigError(f"there is no {' '.join(_words(name))}; there are {listed}")
    path = folder / f"{name}.toml"
    values = read_toml(path)
    source = values.pop("runs_of", None)
    if source is not None:
        if source not in known:
            raise ConfigError(f"{path}: runs_of = {shown(source)} is no experiment of {folder}")
        same = read_toml(folder / f"{source}.toml")
        shared = ("rows", "tasks", "points", "options", "mini", "full")
        values = {key: same[key] for key in shared if key in same} | values
    parsed = _parse(Experiment, {**values, "name": name}, path)
    _check(parsed, read_common(folder), path)
    return parsed


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _words(name: str) -> list[str]:
    word = name.rstrip("0123456789")
    return [word, name[len(word) :]]


def _parse(part: type[Part], values: dict[str, Any], path: Path) -> Part:
    try:
        return part.model_validate(values)
    except ValidationError as error:
        places = ((".".join(map(key_part, p["loc"])), p["msg"], p["input"]) for p in error.errors())
        problems = "; ".join(
            f"{key}: {message}, got {shown(value)}" for key, message, value in places
        )
        raise ConfigError(f"{path}: {problems}") from None


def _check(experiment: Experiment, common: Common, path: Path) -> None:
    """Raise ConfigError for a name that does not exist."""
    known: dict[str, Used] = {
        "method": (common.methods, [experiment.method(row) for row in experiment.rows]),
        "task": (common.tasks, experiment.tasks),
        "task, for absent": (
            experiment.tasks,
            [task for row in experiment.rows.values() for task in row.absent],
        ),
    }
    for size in SIZES:
        extent = experiment.size(size)
        known |= {
            f"{size} row": (experiment.rows, extent.rows),
            f"{size} task": (experiment.tasks, extent.tasks),
            f"{size} point": (experiment.points, [*extent.points, *extent.seeds_at]),
        }
    if experiment.kind == "points":
        for point in experiment.points:
            if not _is_number(point):
                raise ConfigError(f"{path}: the point {point!r} has to be a number, to be drawn at")
    _check_names(known, path)


def _check_names(known: Mapping[str, Used], path: Path) -> None:
    """Raise ConfigError for a name that is used and does not exist."""
    for what, (names, used) in known.items():
        for name in used:
            if name not in names:
                raise ConfigError(f"{path}: no {what} {name!r}; there are {', '.join(names)}")
