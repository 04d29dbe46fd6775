"""Tables for a reader: methods side by side, a line a metric, the paper's figure below ours.

    print_table(Console(), study, study.values())
    print(markdown(study, study.values()))

A cell is ``79.3 ± 0.8 (3)``: mean, standard deviation, number of seeds; below it the paper's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leff.paper.experiment import Experiment
from leff.paper.study import Study
from leff.paper.values import Value
from leff.report.live import bytes_text

LEGENDS = {
    "table": "mean ± standard deviation (number of seeds)",
    "deviation": "standard deviation (number of seeds)",
}
NOTHING = "–"
Cell = Mapping[str, Any]  # of `counts`


def print_table(console: Console, study: Study, values: Sequence[Value]) -> None:
    """Print ours above the paper's, and below the table what is missing and why."""
    heads, lines = _grid(values)
    beside = _has_paper(values)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for label, own in lines.items():
        table.add_row(label, *(_text(study.experiment, value, beside) for value in own))
    console.print(_title(study), style="bold", markup=False, highlight=False)
    console.print(table)
    _print_end(console, study, values)


def _print_end(console: Console, study: Study, values: Sequence[Value]) -> None:
    beside = "; below it the paper's" if _has_paper(values) else ""
    console.print(Text(f"Ours: {_legend(study)}{beside}.", style="dim"))
    console.print(Text(study.caption(), style="dim"))
    for line in missing_lines(values):
        console.print(Text(line, style="yellow"))


def markdown(study: Study, values: Sequence[Value]) -> str:
    """Return the table as Markdown: ours, then the paper's in brackets."""
    heads, lines_by_label = _grid(values)
    beside = _has_paper(values)
    lines = [f"### {_title(study)}", "", _row(["", *heads]), _row(["---"] + ["---:"] * len(heads))]
    for label, own in lines_by_label.items():
        cells = (_parts(study.experiment, value) for value in own)
        lines.append(_row([label, *(f"{o} [{p}]" if beside else o for o, p in cells)]))
    said = "; in brackets the paper's" if beside else ""
    lines += ["", f"Ours: {_legend(study)}{said}. {study.caption()}"]
    absent = missing_lines(values)
    return "\n".join([*lines, *(["", *(f"- {line}" for line in absent)] if absent else [])])


def missing_lines(values: Sequence[Value]) -> list[str]:
    """Return a line for every reason that something is missing, with the cells it holds for."""
    cells = [value for value in values if value.metric != "mean"]
    reasons = dict.fromkeys(value.missing for value in cells if value.missing)
    return [f"{', '.join(_where(reason, cells))}: {reason}" for reason in reasons]


def _where(reason: str, cells: Sequence[Value]) -> list[str]:
    """Name the cells that have a reason: whole rows, whole columns of the others, single ones."""
    rows = _all_with(reason, cells, lambda value: value.row)
    rest = [value for value in cells if value.row not in rows]
    columns = _all_with(reason, rest, lambda value: value.column)
    single = [v for v in rest if v.missing == reason and v.column not in columns]
    named = (" ".join(filter(None, (v.row, v.point, v.column))) for v in single)
    return [*rows, *columns, *dict.fromkeys(named)]


def _all_with(reason: str, cells: Sequence[Value], name: Callable[[Value], str]) -> list[str]:
    """Return the names all of whose cells have the reason."""
    others = {name(value) for value in cells if value.missing != reason}
    return [label for label in dict.fromkeys(map(name, cells)) if label not in others]


def _legend(study: Study) -> str:
    return LEGENDS.get(study.experiment.kind, LEGENDS["table"])


def _title(study: Study) -> str:
    name = " ".join(study.experiment.words).capitalize()
    size = "" if study.experiment.kind == "counts" else f" ({study.selection.size})"
    return f"{name}{size}: {study.experiment.title}"


def _grid(values: Sequence[Value]) -> tuple[list[str], dict[str, list[Value]]]:
    """Return the heads, and a line's values by its label; what there is more of goes down."""
    rows = list(dict.fromkeys(value.row for value in values))
    columns = list(dict.fromkeys(value.column for value in values))
    by_place = {(value.row, value.column): value for value in values}
    if len(rows) > len(columns):
        return columns, {row: [by_place[row, column] for column in columns] for row in rows}
    return rows, {column: [by_place[row, column] for row in rows] for column in columns}


def _has_paper(values: Sequence[Value]) -> bool:
    return any(value.paper is not None for value in values)


def _text(experiment: Experiment, value: Value, beside: bool) -> Text:
    ours, paper = _parts(experiment, value)
    return Text(ours) + Text(f"\n{paper}", style="dim") if beside else Text(ours)


def _parts(experiment: Experiment, value: Value) -> tuple[str, str]:
    """Return ours and the paper's as they are printed."""
    if experiment.kind == "deviation":
        ours = _number(value.deviation, max(value.digits, 2))
        ours += f" ({len(value.by_seed)})" if value.deviation is not None else ""
    else:
        ours = mean_text(value)
    return ours, _number(value.paper, max(value.digits, 2))


def mean_text(value: Value) -> str:
    """Return ``79.3 ± 0.8 (3)``, without a deviation for one seed."""
    if value.mean is None:
        return NOTHING
    deviation = "" if value.deviation is None else f" ± {value.deviation:.{value.digits}f}"
    return f"{value.mean:.{value.digits}f}{deviation} ({len(value.by_seed)})"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


# Counts (Table 5)


def print_counts(console: Console, study: Study, found: Sequence[Cell]) -> None:
    """Print ours above the paper's, a line a model: what trains and, if asked for, memory."""
    console.print(_title(study), style="bold", markup=False, highlight=False)
    for heading, pair in _count_parts(found).items():
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(heading)
        for method in _methods(found):
            table.add_column(method, justify="right", no_wrap=True)
        for model, own in _by_model(found).items():
            cells = (Text(ours) + Text(f"\n{paper}", style="dim") for ours, paper in map(pair, own))
            table.add_row(model, *cells)
        console.print(table)
    console.print(Text(f"Ours; below it the paper's. {study.caption()}", style="dim"))
    for line in dict.fromkeys(_count_notes(found)):
        console.print(Text(line, style="yellow"))


def counts_markdown(study: Study, found: Sequence[Cell]) -> str:
    """Return the counts as Markdown: ours, then the paper's in brackets."""
    lines = [f"### {_title(study)}"]
    for heading, pair in _count_parts(found).items():
        methods = _methods(found)
        lines += ["", _row([heading, *methods]), _row(["---"] + ["---:"] * len(methods))]
        for model, own in _by_model(found).items():
            lines.append(_row([model, *(f"{ours} [{paper}]" for ours, paper in map(pair, own))]))
    notes = [f"- {line}" for line in dict.fromkeys(_count_notes(found))]
    return "\n".join([*lines, "", f"Ours, in brackets the paper's. {study.caption()}", "", *notes])


def _methods(found: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell["method"] for cell in found))


def _by_model(found: Sequence[Cell]) -> dict[str, list[Cell]]:
    models = dict.fromkeys(cell["model"] for cell in found)
    return {model: [cell for cell in found if cell["model"] == model] for model in models}


def _count_parts(found: Sequence[Cell]) -> dict[str, Callable[[Cell], tuple[str, str]]]:
    """Return how ours and the paper's are printed, by the heading of their table."""
    parts = {"parameters that train": _parameters}
    return parts | ({"peak memory, GB": _gigabytes} if "predicted_bytes" in found[0] else {})


def _parameters(cell: Cell) -> tuple[str, str]:
    ours, paper = cell["trainable_parameters"], cell["paper"]
    return _or_nothing(ours, "{:,}"), _or_nothing(paper, "{:,}")


def _gigabytes(cell: Cell) -> tuple[str, str]:
    ours = cell["predicted_bytes"]
    return _or_nothing(ours and ours / 1e9, "{:.3f}"), _or_nothing(cell["paper_gb"], "{:.3f}")


def _or_nothing(number: float | None, form: str) -> str:
    return NOTHING if number is None else form.format(number)


def _count_notes(found: Sequence[Cell]) -> list[str]:
    return [f"{cell['model']}, {cell['method']}: {cell['note']}" for cell in found if cell["note"]]


# Predictions (--dry-run)


def run_rows(study: Study) -> list[dict[str, Any]]:
    """Return every run with predicted seconds and bytes, for scripts."""
    return [
        {
            "key": run.key,
            "row": run.row,
            **({"point": run.point} if run.point else {}),
            "column": run.task,
            "seed": run.seed,
            "model": run.config.model.name,
            "method": run.config.method.name,
            "done": done,
            "seconds": told.seconds,
            "bytes": told.bytes,
            "basis": told.basis,
            "command": run.command,
        }
        for run, done, told in study.predictions()
    ]


def print_runs(console: Console, study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the runs with predicted time and memory, and what is left to do in all."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "row", "column", "seed", "state"):
        table.add_column(name)
    for name in ("time", "memory"):
        table.add_column(name, justify="right")
    for row in rows:
        named = " ".join(filter(None, (row["row"], row.get("point", ""))))
        state = "done" if row["done"] else "to do"
        time = NOTHING if row["seconds"] is None else duration(row["seconds"])
        held = NOTHING if row["bytes"] is None else bytes_text(row["bytes"])
        table.add_row(row["key"], named, row["column"], str(row["seed"]), state, time, held)
    console.print(_title(study), style="bold", markup=False, highlight=False)
    console.print(table)
    left = [row for row in rows if not row["done"]]
    seconds = sum(row["seconds"] or 0 for row in left)
    jobs = "one after another; " if left else ""
    total = f"{len(left)} of {len(rows)} runs to do, {duration(seconds)} {jobs}".rstrip("; ")
    console.print(Text(f"{total}. Memory: clients at work and the server's model."))
    for basis in dict.fromkeys(row["basis"] for row in left):
        console.print(
            Text(f"{'' if basis.startswith('cannot') else 'time from '}{basis}", style="dim")
        )
    for line in missing_lines(study.values()):
        if "(seed" not in line:  # what is merely to do is listed above
            console.print(Text(line, style="yellow"))


def duration(seconds: float) -> str:
    """Return seconds for a reader: ``2 min``, ``1.5 h``."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
