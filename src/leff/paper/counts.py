"""Table 5: what a client trains and holds, counted without weights, beside the paper's.

count_cells(read_experiment(folder, "table5"), common, Selection())[0]["trainable_parameters"]
"""

from typing import Any

from leff.config import RunConfig, load_config
from leff.errors import ConfigError
from leff.paper.cells import Selection, chosen
from leff.paper.experiment import Common, Experiment
from leff.paper.published import MEMORY_GB, TRAINABLE
from leff.planning import planned, predicted


def count_cells(
    experiment: Experiment, common: Common, selection: Selection, memory: bool = False
) -> list[dict[str, Any]]:
    """Return a cell for every model (a row) and method (a column), in the order of the file.

    `paper` is None where the paper has no number; `note` says why one of the two has none.  With
    `memory` there are `predicted_bytes`, the peak of a training step (`leff.cost.prediction`) with
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
