"""Prints tables: methods side by side, a line for each metric, the paper's value below ours.

    print_table(Console(), study, study.values())
    print(markdown(study, study.values()))

A cell is ``79.3 ± 0.8 (3)``: mean, standard deviation, number of seeds.
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leff.paper.captions import averages_line, caption, missing_lines, note_lines
from leff.paper.experiment import Experiment
from leff.paper.study import Study
from leff.paper.values import Value

LEGENDS = {
    "table": "mean ± standard deviation (number of seeds)",
    "deviation": "standard deviation (number of seeds)",
}


def print_table(console: Console, study: Study, values: Sequence[Value]) -> None:
    """Print our values above the paper's, and below the table what is missing and why."""
    heads, lines = _grid(values)
    beside = _has_paper(values)
    texts = {
        label: [_text(study.experiment, value, beside) for value in own]
        for label, own in lines.items()
    }
    console.print(title(study), style="bold", markup=False, highlight=False)
    print_blocks(console, "", heads, texts)
    paper_note = "; below it the paper's" if beside else ""
    for line in (f"Ours: {_legend(study)}{paper_note}. {averages_line(values)}", caption(study)):
        console.print(Text(line.rstrip(), style="dim"))
    for line in note_lines(values):
        console.print(Text(line, style="dim"))
    for line in missing_lines(values):
        console.print(Text(line, style="yellow"))


def markdown(study: Study, values: Sequence[Value]) -> str:
    """Return the table as Markdown: our value, then the paper's in brackets."""
    heads, lines_by_label = _grid(values)
    beside = _has_paper(values)
    lines = [f"### {title(study)}", "", *markdown_head("", heads)]
    for label, own in lines_by_label.items():
        cells = (_parts(study.experiment, value) for value in own)
        lines.append(markdown_row([label, *(f"{o} [{p}]" if beside else o for o, p in cells)]))
    paper_note = "; in brackets the paper's" if beside else ""
    sentences = (f"Ours: {_legend(study)}{paper_note}.", averages_line(values), caption(study))
    lines += ["", " ".join(filter(None, sentences))]
    below = note_lines(values) + missing_lines(values)
    return "\n".join([*lines, *(["", *(f"- {line}" for line in below)] if below else [])])


def _legend(study: Study) -> str:
    return LEGENDS.get(study.experiment.kind, LEGENDS["table"])


def _grid(values: Sequence[Value]) -> tuple[list[str], dict[str, list[Value]]]:
    """Return column heads, and lines by label; the longer of rows and columns goes down."""
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
    """Return our value and the paper's, formatted."""
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


GAP = 2  # spaces between columns
NOTHING = "–"


def title(study: Study) -> str:
    """Return ``Table 1 (mini): Methods on GLUE and E2E``; counts have no size."""
    name = study.experiment.spoken.capitalize()
    size = "" if study.experiment.kind == "counts" else f" ({study.selection.size})"
    return f"{name}{size}: {study.experiment.title}"


def print_blocks(
    console: Console, corner: str, heads: Sequence[str], lines: Mapping[str, Sequence[Text]]
) -> None:
    """Print `lines` by label as a table, split into blocks of columns that fit the width."""
    label = max(map(cell_len, (corner, *lines)))
    widths = [
        max(cell_len(h), *(max(map(cell_len, own[i].plain.split("\n"))) for own in lines.values()))
        for i, h in enumerate(heads)
    ]
    for number, (first, last) in enumerate(_blocks(widths, console.width - label)):
        if number:
            console.print()
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column(corner, no_wrap=True)
        for head in heads[first:last]:
            table.add_column(head, justify="right", no_wrap=True)
        for name, own in lines.items():
            table.add_row(name, *own[first:last])
        console.print(table)


def _blocks(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of every block: as many columns as fit, at least one."""
    first, used = 0, 0
    for place, width in enumerate(widths):
        if place > first and used + GAP + width > room:
            yield first, place
            first, used = place, 0
        used += GAP + width
    yield first, len(widths)


def markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_head(corner: str, heads: Sequence[str]) -> list[str]:
    """Return a Markdown table's head; number columns are aligned to the right."""
    return [markdown_row([corner, *heads]), markdown_row(["---"] + ["---:"] * len(heads))]
