"""Table 5: what a client trains and holds, counted without weights, beside the paper's.

found = count_cells(read_experiment(folder, "table5"), common, Selection())
found[0]["trainable_parameters"]; print_counts(Console(), study, found)
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

Cell = Mapping[str, Any]  # of a model and a method


def count_cells(
    experiment: Experiment, common: Common, selection: Selection, memory: bool = False
) -> list[dict[str, Any]]:
    """Return a cell for every model (a row) and method (a column), in the order of the file.

    `paper` is None where the paper has no number; `note` says why one of the two has none.  With
    `memory` there are `predicted_bytes`, the peak of a training step (`leff.capacity.peak`) with
    the batch and context of the file, and `paper_gb`; seconds a cell.
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
    found: dict[str, Any] = {}
    try:
        found = (predicted if memory else planned)(model, method, config, layers=1)
    except ConfigError as error:
        notes.append(f"ours: {error}")
    cell = {
        "model": model,
        "method": method,
        "trainable_parameters": found.get("trainable_parameters"),
        "paper": paper if isinstance(paper, int) else None,
        "note": "; ".join(notes) or None,
    }
    if memory:
        cell["predicted_bytes"] = found.get("predicted_bytes")
        cell["paper_gb"] = MEMORY_GB.get(model, {}).get(method)
    return cell


def print_counts(console: Console, study: Study, found: Sequence[Cell]) -> None:
    """Print ours above the paper's, a line a model: what trains and, if asked for, memory."""
    console.print(title(study), style="bold", markup=False, highlight=False)
    for heading, pair in _count_parts(found).items():
        lines = {
            model: [Text(ours) + Text(f"\n{paper}", style="dim") for ours, paper in map(pair, own)]
            for model, own in _by_model(found).items()
        }
        print_blocks(console, heading, _methods(found), lines)
    console.print(Text(f"Ours; below it the paper's. {caption(study)}", style="dim"))
    for line in dict.fromkeys(_count_notes(found)):
        console.print(Text(line, style="yellow"))


def counts_markdown(study: Study, found: Sequence[Cell]) -> str:
    """Return the counts as Markdown: ours, then the paper's in brackets."""
    lines = [f"### {title(study)}"]
    for heading, pair in _count_parts(found).items():
        lines += ["", *markdown_head(heading, _methods(found))]
        for model, own in _by_model(found).items():
            cells = (f"{ours} [{paper}]" for ours, paper in map(pair, own))
            lines.append(markdown_row([model, *cells]))
    notes = [f"- {line}" for line in dict.fromkeys(_count_notes(found))]
    return "\n".join([*lines, "", f"Ours, in brackets the paper's. {caption(study)}", "", *notes])


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
