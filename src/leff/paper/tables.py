"""Tables for a reader: methods side by side, a line a metric, the paper's figure below ours.

    print_table(Console(), study, study.values())
    print(markdown(study, study.values()))

A cell is ``79.3 ± 0.8 (3)``: mean, standard deviation, number of seeds; below it the paper's.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter

from rich.console import Console
from rich.text import Text

from leff.paper.experiment import Experiment
from leff.paper.layout import NOTHING, markdown_head, markdown_row, print_blocks, title
from leff.paper.study import Study
from leff.paper.values import Value

LEGENDS = {
    "table": "mean ± standard deviation (number of seeds)",
    "deviation": "standard deviation (number of seeds)",
}


def print_table(console: Console, study: Study, values: Sequence[Value]) -> None:
    """Print ours above the paper's, and below the table what is missing and why."""
    heads, lines = _grid(values)
    beside = _has_paper(values)
    texts = {
        label: [_text(study.experiment, value, beside) for value in own]
        for label, own in lines.items()
    }
    console.print(title(study), style="bold", markup=False, highlight=False)
    print_blocks(console, "", heads, texts)
    _print_end(console, study, values)


def _print_end(console: Console, study: Study, values: Sequence[Value]) -> None:
    said = "; below it the paper's" if _has_paper(values) else ""
    console.print(Text(f"Ours: {_legend(study)}{said}.{_averages(values)}", style="dim"))
    console.print(Text(study.caption(), style="dim"))
    for line in missing_lines(values):
        console.print(Text(line, style="yellow"))


def markdown(study: Study, values: Sequence[Value]) -> str:
    """Return the table as Markdown: ours, then the paper's in brackets."""
    heads, lines_by_label = _grid(values)
    beside = _has_paper(values)
    lines = [f"### {title(study)}", "", *markdown_head("", heads)]
    for label, own in lines_by_label.items():
        cells = (_parts(study.experiment, value) for value in own)
        lines.append(markdown_row([label, *(f"{o} [{p}]" if beside else o for o, p in cells)]))
    said = "; in brackets the paper's" if beside else ""
    lines += ["", f"Ours: {_legend(study)}{said}.{_averages(values)} {study.caption()}"]
    absent = missing_lines(values)
    return "\n".join([*lines, *(["", *(f"- {line}" for line in absent)] if absent else [])])


def missing_lines(values: Sequence[Value]) -> list[str]:
    """Return a line for every reason that something is missing, with the cells it holds for."""
    cells = [value for value in values if value.metric != "mean"]
    reasons = dict.fromkeys(value.missing for value in cells if value.missing)
    return [f"{'; '.join(_where(reason, cells))}: {reason}" for reason in reasons]


def _where(reason: str, values: Sequence[Value]) -> list[str]:
    """Name what has a reason: whole rows, of the rest whole columns, whole cells, single values."""
    found: list[str] = []
    for name in (attrgetter("row"), attrgetter("column"), attrgetter("cell"), _single):
        named = _all_with(reason, values, name)
        values = [value for value in values if name(value) not in named]
        found += named
    return found


def _single(value: Value) -> str:
    return " ".join(filter(None, (value.row, value.point, value.column)))


def _all_with(reason: str, values: Sequence[Value], name: Callable[[Value], str]) -> list[str]:
    """Return the names all of whose values have the reason."""
    others = {name(value) for value in values if value.missing != reason}
    return [label for label in dict.fromkeys(map(name, values)) if label not in others]


def _legend(study: Study) -> str:
    return LEGENDS.get(study.experiment.kind, LEGENDS["table"])


def _averages(values: Sequence[Value]) -> str:
    """Say what the paper's averages are over, where there are some: not always all that it has."""
    averaged = any(value.metric == "mean" and value.paper is not None for value in values)
    return (
        " Averages, the paper's too, are over the columns that this size has." if averaged else ""
    )


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
