"""How tables are put on a console or into Markdown, whatever they are of.

print_blocks(Console(), "", ["CoLA", "SST-2"], {"LEFF": [Text("26.1 (3)"), Text("81.0 (3)")]})
"""

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leff.paper.study import Study

GAP = 2  # blanks between columns
NOTHING = "–"


def title(study: Study) -> str:
    """Return ``Table 1 (mini): Methods on GLUE and E2E``; counts have no size."""
    name = study.experiment.spoken.capitalize()
    size = "" if study.experiment.kind == "counts" else f" ({study.selection.size})"
    return f"{name}{size}: {study.experiment.title}"


def print_blocks(
    console: Console, corner: str, heads: Sequence[str], lines: Mapping[str, Sequence[Text]]
) -> None:
    """Print a table of `lines` by label, in blocks of as many columns as the width takes."""
    label = max(map(cell_len, (corner, *lines)))
    widths = [
        max(cell_len(h), *(_width(own[i]) for own in lines.values())) for i, h in enumerate(heads)
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


def _width(cell: Text) -> int:
    return max(map(cell_len, cell.plain.split("\n")))


def _blocks(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the end of every block of columns: at least one, and what has room."""
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
    """Return a head and the line below it, numbers to the right."""
    return [markdown_row([corner, *heads]), markdown_row(["---"] + ["---:"] * len(heads))]
