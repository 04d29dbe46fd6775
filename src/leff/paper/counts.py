"""Table 5: a client's trained parameters and memory, without weights, beside the paper's.

cells = count_cells(read_experiment(folder, "table5"), common, Selection())
cells[0]["trainable_parameters"]; print_counts(Console(), study, cells)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from leff.errors import ConfigError
from leff.paper.captions import caption
from leff.paper.cells import Selection, chosen
from leff.paper.experiment import Common, Experiment
from leff.paper.published import MEMORY_GB, TRAINABLE
from leff.paper.study import Study
from leff.paper.tables import NOTHING, markdown_head, markdown_row, print_blocks, title
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.runs.plans import planned, predicted

Cell = Mapping[str, Any]  # a model with a method


def count_cells(
    experiment: Experiment, common: Common, selection: Selection, memory: bool = False
) -> list[dict[str, Any]]:
    """Return a cell for every model (a row) and method (a column), in the file's order.

    `paper` is None if the paper has no number; `note` says why a number is missing.  With `memory`
    a cell also has `predicted_bytes`, the peak of a training step with the file's batch and
    context, and `paper_gb`.  That takes seconds for each cell.
    """
    models = chosen("row", selection.rows, experiment.models, experiment)
    columns = chosen("column", selection.columns, experiment.rows, experiment)
    configs = [
        load_config(
            None,
            {
                **common.methods[experiment.method(label)],
                **experiment.options,
                **experiment.rows[label].options,
            },
        )
        for label in columns
    ]
    return [_cell(model, config, memory) for model in models for config in configs]


def _cell(model: str, config: RunConfig, memory: bool) -> dict[str, Any]:
    method = config.method.name
    paper = TRAINABLE.get(model, {}).get(method)
    notes = [f"paper: {paper}"] if isinstance(paper, str) else []
    plan: dict[str, Any] = {}
    try:
        plan = (predicted if memory else planned)(model, method, config, layers=1)
    except ConfigError as error:
        notes.append(f"ours: {error}")
    cell = {
        "model": model,
        "method": method,
        "trainable_parameters": plan.get("trainable_parameters"),
        "paper": paper if isinstance(paper, int) else None,
        "note": "; ".join(notes) or None,
    }
    if memory:
        cell["predicted_bytes"] = plan.get("predicted_bytes")
        cell["paper_gb"] = MEMORY_GB.get(model, {}).get(method)
    return cell


def print_counts(console: Console, study: Study, cells: Sequence[Cell]) -> None:
    """Print a line for each model, our counts above the paper's: parameters, perhaps memory."""
    console.print(title(study), style="bold", markup=False, highlight=False)
    for heading, pair in _count_parts(cells).items():
        lines = {
            model: [Text(ours) + Text(f"\n{paper}", style="dim") for ours, paper in map(pair, own)]
            for model, own in _by_model(cells).items()
        }
        print_blocks(console, heading, _methods(cells), lines)
    console.print(Text(f"Ours; below it the paper's. {caption(study)}", style="dim"))
    for line in dict.fromkeys(_count_notes(cells)):
        console.print(Text(line, style="yellow"))


def counts_markdown(study: Study, cells: Sequence[Cell]) -> str:
    """Return the counts as Markdown: ours, then the paper's in brackets."""
    lines = [f"### {title(study)}"]
    for heading, pair in _count_parts(cells).items():
        lines += ["", *markdown_head(heading, _methods(cells))]
        for model, own in _by_model(cells).items():
            pairs = (f"{ours} [{paper}]" for ours, paper in map(pair, own))
            lines.append(markdown_row([model, *pairs]))
    notes = [f"- {line}" for line in dict.fromkeys(_count_notes(cells))]
    return "\n".join([*lines, "", f"Ours, in brackets the paper's. {caption(study)}", "", *notes])


def _methods(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell["method"] for cell in cells))


def _by_model(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    models = dict.fromkeys(cell["model"] for cell in cells)
    return {model: [cell for cell in cells if cell["model"] == model] for model in models}


def _count_parts(cells: Sequence[Cell]) -> dict[str, Callable[[Cell], tuple[str, str]]]:
    """Return, by a table's heading, the function that formats our number and the paper's."""
    parts = {"parameters that train": _parameters}
    return parts | ({"peak memory, GB": _gigabytes} if "predicted_bytes" in cells[0] else {})


def _parameters(cell: Cell) -> tuple[str, str]:
    ours, paper = cell["trainable_parameters"], cell["paper"]
    return _or_nothing(ours, "{:,}"), _or_nothing(paper, "{:,}")


def _gigabytes(cell: Cell) -> tuple[str, str]:
    ours = cell["predicted_bytes"]
    return _or_nothing(ours and ours / 1e9, "{:.3f}"), _or_nothing(cell["paper_gb"], "{:.3f}")


def _or_nothing(number: float | None, form: str) -> str:
    return NOTHING if number is None else form.format(number)


def _count_notes(cells: Sequence[Cell]) -> list[str]:
    return [f"{cell['model']}, {cell['method']}: {cell['note']}" for cell in cells if cell["note"]]
