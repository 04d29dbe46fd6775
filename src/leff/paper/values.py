"""The values of a table or figure: mean, deviation, number of seeds, and the paper's.

    for value in metric_values(experiment, common, cells, results, {}): value.mean

Averages over a group of tasks are taken for each seed; the paper's are over the same tasks.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from leff.paper.cells import Cell, PaperRun
from leff.paper.experiment import Common, Experiment, Group, TaskEntry
from leff.paper.published import TABLES
from leff.paper.results import Result

Results = Mapping[str, Result]  # by key


@dataclass(frozen=True)
class Value:
    """One metric of one cell, for every seed that has it."""

    row: str
    point: str
    column: str
    metric: str
    by_seed: Mapping[int, float]
    digits: int
    paper: float | None = None
    missing: str | None = None  # why seeds or the whole value are missing
    left_out: bool = False  # the size does not have this cell
    cell: str = ""  # the label of its cell, which may have several values
    notes: tuple[str, ...] = ()  # its runs' notes on the metric

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.by_seed.values()) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation, n - 1 in the denominator; None for one seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return the value for scripts; `seeds` is the number of seeds."""
        return {
            "row": self.row,
            **({"point": self.point} if self.point else {}),
            "column": self.column,
            "metric": self.metric,
            "mean": self.mean,
            "deviation": self.deviation,
            "seeds": len(self.by_seed),
            "paper": self.paper,
            "missing": self.missing,
            "notes": list(self.notes),
        }


def metric_values(
    experiment: Experiment,
    common: Common,
    cells: Sequence[Cell],
    results: Results,
    failures: Mapping[str, str],
    averages: bool = True,
) -> list[Value]:
    """Return a value for every metric of every cell, and with `averages` those over groups.

    A column that the size does not have is left out of averages.  Deviations have no average.
    """
    by_cell = {
        (cell.row, cell.point, cell.task): _of_cell(experiment, common, cell, results, failures)
        for cell in cells
    }
    every = [value for values in by_cell.values() for value in values]
    averaged = {value.column for value in every if not value.left_out}
    shown: list[Value] = []
    for row, point in dict.fromkeys((cell.row, cell.point) for cell in cells):
        for name, group in common.groups.items():
            values = [
                value
                for (own_row, own_point, task), own in by_cell.items()
                if (own_row, own_point, common.tasks[task].group) == (row, point, name)
                for value in own
            ]
            there = [value for value in values if value.column in averaged]
            shown += values
            if averages and group.average and len(there) > 1 and experiment.kind != "deviation":
                shown.append(_average(group, there))
    return shown


def _of_cell(
    experiment: Experiment,
    common: Common,
    cell: Cell,
    results: Results,
    failures: Mapping[str, str],
) -> list[Value]:
    entry = common.tasks[cell.task]
    group = common.groups[entry.group]
    values: list[Value] = []
    for column in cell.columns:
        metric = entry.metrics[column]
        by_seed: dict[int, float] = {}
        problems: dict[str, list[int]] = {}  # reason -> seeds
        for run in cell.runs:
            finished = run.key in results
            value = results[run.key]["after"]["metrics"].get(metric) if finished else None
            if value is not None:
                by_seed[run.seed] = group.scale * value
            else:
                problems.setdefault(_problem(run, metric, results, failures), []).append(run.seed)
        paper = published(experiment, cell.row, cell.point, column)
        missing = cell.absent or _problems_text(problems)
        place = (cell.row, cell.point, column, metric)
        shown = (by_seed, group.digits, paper, missing, cell.left_out, cell.label)
        by_run = [_notes(run, metric, entry, results) for run in cell.runs if run.seed in by_seed]
        notes = tuple(dict.fromkeys(itertools.chain.from_iterable(by_run)))
        values.append(Value(*place, *shown, notes))
    return values


def _notes(run: PaperRun, metric: str, task: TaskEntry, results: Results) -> list[str]:
    """Return a run's notes on a metric, and its general notes."""
    others = set(task.metrics.values()) - {metric}
    notes = results[run.key]["after"]["notes"]
    return [note for name, note in notes.items() if name not in others]


def _problem(run: PaperRun, metric: str, results: Results, failures: Mapping[str, str]) -> str:
    """Return why a run has no value for a metric."""
    if run.key not in results:
        return failures.get(run.key, "not run")
    return results[run.key]["after"]["notes"].get(metric) or "not finite"


def _problems_text(problems: Mapping[str, Sequence[int]]) -> str | None:
    """Return the problems, each with its seeds; None without any."""
    parts = [
        f"{problem} (seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))})"
        for problem, seeds in problems.items()
    ]
    return "; ".join(parts) or None


def _average(group: Group, values: Sequence[Value]) -> Value:
    """Return the average over a group's columns in a row, and the paper's over the same."""
    first = values[0]
    seeds = set(first.by_seed).intersection(*(value.by_seed for value in values))
    paper = [value.paper for value in values if value.paper is not None]
    lacking = [value.column for value in values if value.missing]
    return Value(
        first.row,
        first.point,
        group.average,
        "mean",
        {seed: statistics.mean(v.by_seed[seed] for v in values) for seed in sorted(seeds)},
        group.digits,
        statistics.mean(paper) if len(paper) == len(values) else None,
        f"incomplete: {', '.join(lacking)}" if lacking else None,
    )


def published(experiment: Experiment, row: str, point: str, column: str) -> float | None:
    """Return the paper's value, or None if it prints none."""
    paper = experiment.paper
    if paper is not None and paper.point != point:
        return None
    table = TABLES.get(paper.table if paper else experiment.name, {})
    return table.get(row, {}).get(column)


def round_values(
    cells: Sequence[Cell], results: Results, failures: Mapping[str, str]
) -> list[Value]:
    """Return the validation loss of every cell after every round; the point is the round."""
    losses: list[Value] = []
    for cell in cells:
        curves = {
            run.seed: {r["round"]: r["loss"] for r in results[run.key]["rounds"]}
            for run in cell.runs
            if run.key in results
        }
        problems: dict[str, list[int]] = {}  # reason -> seeds
        for run in cell.runs:
            if run.key not in results:
                problems.setdefault(_problem(run, "", results, failures), []).append(run.seed)
            elif not all(map(_is_finite, curves[run.seed].values())):
                problems.setdefault("no finite loss in some rounds", []).append(run.seed)
        missing = cell.absent or _problems_text(problems)
        rounds = sorted({number for curve in curves.values() for number in curve})
        for number in rounds or [0]:
            at_seed = {seed: curve.get(number) for seed, curve in curves.items()}
            by_seed = {seed: loss for seed, loss in at_seed.items() if _is_finite(loss)}
            place = (cell.row, str(number), cell.task, "loss")
            losses.append(Value(*place, by_seed, 4, None, missing, cell.left_out, cell.label))
    return losses


def _is_finite(value: float | None) -> TypeGuard[float]:
    """Whether a recorded loss is finite; JSON stores null for other values."""
    return value is not None and math.isfinite(value)
