"""A table and a figure of two methods on the built-in task, of a few seconds."""

from pathlib import Path
from typing import Any

from tiny_runs import OPTIONS

from leff.runs.toml import _toml

SMALL = {
    **OPTIONS,
    "model.name": "sample",
    "data.max_length": 48,
    "clients.layers": [1],
    "context.name": "drop",
    "training.rounds": 1,
    "evaluation.max_new_tokens": 4,
    "evaluation.gap_clients": 0,
}
del SMALL["context.steps"]  # of distil alone


def write_experiments(folder: Path, **changes: Any) -> Path:
    """Write the experiments table1 (two seeds) and figure4 (two points) into a folder."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    options = {**SMALL, **changed}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "common.toml").write_text(
        f"""
        [methods]
        FedAvg = {{ "method.name" = "fedavg" }}
        LEFF = {{ "method.name" = "leff" }}
        [groups]
        walks = {{ average = "average", digits = 3 }}
        [tasks.Walks]
        group = "walks"
        metrics = {{ BLEU = "BLEU", CIDEr = "CIDEr" }}
        options = {{ "data.task" = "sample" }}
        [mini]
        note = "Tiny."
        notes = {{ walks = "The built-in task." }}
        groups = {{ walks = {_toml(options)} }}
        rates = {{ FedAvg = {{ walks = 2e-3 }}, LEFF = {{ walks = 4e-3 }} }}
        [full]
        note = "None."
        notes = {{}}
        groups = {{}}
        rates = {{}}
        """
    )
    shared = """
        title = "Made up"
        caption = "For tests."
        tasks = ["Walks"]
        rows = { FedAvg = {}, LEFF = {} }
    """
    (folder / "table1.toml").write_text(f"{shared}\n[mini]\nseeds = [0, 1]")
    (folder / "figure4.toml").write_text(
        f'{shared}\nkind = "points"\naxis = "α"\n[points]\n"0.5" = {{ "clients.alpha" = 0.5 }}\n'
        '"5" = { "clients.alpha" = 5 }\n[mini]\nseeds = [0]'
    )
    (folder / "figure8.toml").write_text(
        'title = "Losses"\ncaption = "Of table 1."\nkind = "rounds"\naxis = "round"\n'
        'runs_of = "table1"'
    )
    return folder
