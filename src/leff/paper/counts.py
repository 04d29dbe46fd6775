"""Table 5: how many parameters a client trains, counted without weights, beside the paper's.

count_cells(read_experiment(folder, "table5"), common)[0]["trainable_parameters"]
"""

from typing import Any

from leff import cost
from leff.errors import ConfigError
from leff.families.known import load_config
from leff.paper.cells import Selection, chosen
from leff.paper.experiment import Common, Experiment
from leff.paper.published import TRAINABLE


def count_cells(
    experiment: Experiment, common: Common, selection: Selection
) -> list[dict[str, Any]]:
    """Return a cell for every model (a row) and method (a column), in the order of the file.

    `paper` is None where the paper has no number; `note` says why one of the two has none.
    """
    models = chosen("row", selection.rows, experiment.models, experiment)
    columns = chosen("column", selection.columns, experiment.rows, experiment)
    methods = [common.methods[experiment.method(label)]["method.name"] for label in columns]
    return [_cell(model, method) for model in models for method in methods]


def _cell(model: str, method: str) -> dict[str, Any]:
    paper = TRAINABLE.get(model, {}).get(method)
    notes = [f"paper: {paper}"] if isinstance(paper, str) else []
    count = None
    try:
        count = cost.plan(*load_config(model), method, layers=1).trainable_parameters
    except ConfigError as error:
        notes.append(f"ours: {error}")
    return {
        "model": model,
        "method": method,
        "trainable_parameters": count,
        "paper": paper if isinstance(paper, int) else None,
        "note": "; ".join(notes) or None,
    }
