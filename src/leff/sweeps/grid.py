"""A grid of options, each point with several seeds: the runs, and what came out by point.

    points = grid_points(None, {}, {"training.learning_rate": (1e-4, 2e-4)}, seeds=3)
    rows = [row(point, folder) for point in points]      # mean and deviation over the seeds

The best point has the best mean of the metric on validation examples, after the last round.  So
what is reported of the test split was not chosen on it.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leff.errors import ConfigError, key_part
from leff.methods.registry import spec_of
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.sweeps.keys import run_key

LOWER_IS_BETTER = ("perplexity", "mse")
MOST_RUNS = 1000  # more is a slip of the keyboard


@dataclass(frozen=True)
class GridRun:
    """One run of a point."""

    config: RunConfig
    label: str  # such as "learning_rate 0.0001, seed 0"
    key: str  # its folder's name


@dataclass(frozen=True)
class Point:
    """One setting of the grid's options, and its runs: one for each seed."""

    values: dict[str, Any]
    runs: tuple[GridRun, ...]


def grid_points(
    path: Path | None,
    overrides: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    seeds: int = 1,
) -> tuple[Point, ...]:
    """Return a point for each combination of the grid's values, in order.

    `path` is a TOML file, or None for the built-in run; `overrides` and `grid` have dotted keys.
    The seeds are the configuration's, and those after it.

    Raises ConfigError for a value that cannot be, before anything runs, for a grid of `seed`, for
    an option that is set too, and for two points with the same options.
    """
    if "seed" in grid:
        raise ConfigError("--grid cannot have the seed; --seeds says how many there are")
    for key in grid:
        if key in overrides:
            raise ConfigError(f"{key_part(key)} is in --grid and set too; give it once")
        if not grid[key]:
            raise ConfigError(f"--grid {key_part(key)} has no values")
    count = seeds * math.prod(map(len, grid.values()))
    if count > MOST_RUNS:
        raise ConfigError(f"the grid has {count:,} runs; at most {MOST_RUNS:,} are done")
    first = load_config(path, overrides).seed
    points: list[Point] = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        own = [load_config(path, {**overrides, **values, "seed": first + i}) for i in range(seeds)]
        spec_of(own[0].method.name)  # raises ConfigError
        points.append(Point(values, tuple(_run(values, config) for config in own)))
    keys = [run.key for point in points for run in point.runs]
    if len({*keys}) < len(keys):
        raise ConfigError("two points of the grid have the same options; give each value once")
    return tuple(points)


def _run(values: Mapping[str, Any], config: RunConfig) -> GridRun:
    named = [f"{key.rpartition('.')[2]} {value}" for key, value in values.items()]
    return GridRun(config, ", ".join([*named, f"seed {config.seed}"]), run_key(config))


def row(point: Point, folder: Path, failures: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what came of a point's finished runs, whose folders are in `folder`.

    Beside the point's values: ``runs`` (finished), ``metric``, ``validation`` and ``test`` with
    their deviations ``validation_sd`` and ``test_sd`` (of samples; None for one run), the ``split``
    that ``test`` is of (validation without a test file), ``megabytes`` (down and up, of a run),
    ``folders``, and ``failure`` if a run failed.
    """
    finished = [run for run in point.runs if RunFolder(folder / run.key).result() is not None]
    folders = [RunFolder(folder / run.key) for run in finished]
    results = [each.result() or {} for each in folders]
    metric = results[0]["metric"] if results else None
    bytes_sent = [each["download_bytes"] + each["upload_bytes"] for each in results]
    failed = [f for run in point.runs if (f := (failures or {}).get(run.key)) is not None]
    return {
        **point.values,
        "runs": len(finished),
        "metric": metric,
        **_spread("validation", [each.records()[-1].metric for each in folders]),
        **_spread("test", [each["after"]["metrics"][metric] for each in results]),
        "split": results[0]["after"]["split"] if results else None,
        "megabytes": statistics.mean(bytes_sent) / 1e6 if bytes_sent else None,
        "folders": [str(each.path) for each in folders],
        "failure": failed[0] if failed else None,
    }


def _spread(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    """Return mean and deviation; both None if a value is missing, as after a loss of NaN."""
    known = [value for value in values if value is not None]
    whole = bool(known) and len(known) == len(values)
    return {
        name: statistics.mean(known) if whole else None,
        f"{name}_sd": statistics.stdev(known) if whole and len(known) > 1 else None,
    }


def best(rows: Sequence[Mapping[str, Any]], most: int) -> int | None:
    """Return the number of the best row by validation, among those with the `most` runs.

    None if there is no such row.
    """
    whole = [i for i, r in enumerate(rows) if r["runs"] == most and r["validation"] is not None]
    sign = -1 if rows and rows[0]["metric"] in LOWER_IS_BETTER else 1
    return max(whole, key=lambda number: sign * rows[number]["validation"], default=None)
