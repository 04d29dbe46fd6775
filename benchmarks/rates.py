"""Which learning rate suits which model: LEFF's defaults on a table of one's own.

    .venv/bin/python -m benchmarks.rates --model FOLDER --task sst2 --rates 1e-4 2e-4 4e-4
    .venv/bin/python -m benchmarks.rates --model FOLDER --task e2e --rows 96 --rounds 2 --json

The table has `--rows` rows, drawn from the task's training split with `--seed`, a tenth of which is
held out.  Everything but model, rows, rounds and rate is the default for a table.  A row a rate:
`loss` on the held-out rows after the last round (nats), its least value in any round, and the
task's metric.  `model.width` and `default` are the model's width and `runs.rates`' choice for it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import leff
from leff.errors import LeffError
from leff.models import load_config
from leff.runs.rates import rate_for
from leff.runs.sources import model_source
from leff.tasks.load import load_task
from leff.tasks.task import draw_rows

COLUMNS = ("input", "target", "text", "text_pair", "label")


def write_table(task: str, rows: int, seed: int, path: Path) -> str:
    """Write a task's drawn rows as JSON lines; return the task's kind."""
    loaded = load_task(task)
    with path.open("w", encoding="utf-8") as file:
        for row in draw_rows(loaded.train, rows, seed, "rates"):
            own = {name: row[name] for name in COLUMNS if name in row}
            if loaded.labels:
                own["label"] = loaded.labels[own["label"]]
            file.write(json.dumps(own) + "\n")
    return loaded.kind


def measured(model: str, table: Path, rate: float, given: argparse.Namespace) -> dict[str, Any]:
    """Run LEFF at a rate; return its last and least validation loss, and the metric."""
    options: dict[str, Any] = {
        "model.name": model,
        "data.task": "table",
        "data.train": str(table),
        "data.max_length": given.length,
        "clients.partition": "iid",
        "clients.layers": given.layers,
        "clients.min_examples": 1,
        "proxy.task": given.proxy,
        "training.rounds": given.rounds,
        "training.learning_rate": rate,
        "evaluation.final_examples": given.final,
        "evaluation.gap_clients": 0,
        "engine.workers": 1,
        "seed": given.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = leff.run(out=f"{folder}/run", **options)
        except LeffError as error:
            return {"rate": rate, "failure": str(error)}
        losses = [record.loss for record in run.records() if record.loss is not None]
        name = run.result["metric"]
        return {"rate": rate, "loss": losses[-1], "least": min(losses), name: run.after[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 2e-4, 4e-4])
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--final", type=int, default=200)
    parser.add_argument("--proxy", default="wnli")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 1, 2, 2, 3, 3, 4, 6])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config = load_config(model_source(given.model))[0]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.jsonl"
        kind = write_table(given.task, given.rows, given.seed, table)
        rows: list[dict[str, Any]] = []
        for rate in given.rates:
            rows.append(measured(given.model, table, rate, given))
            print(rows[-1], file=sys.stderr, flush=True)
    facts = {"model": given.model, "width": config.hidden_size, "kind": kind}
    facts |= {"task": given.task, "rows": given.rows, "rounds": given.rounds}
    facts |= {"default": rate_for(config, kind)}
    if given.json:
        print(json.dumps(facts | {"rates": rows}, indent=1))
        return
    print(*(f"{name} {value}" for name, value in facts.items()), sep=", ")
    for row in rows:
        print(*(f"{name} {value}" for name, value in row.items()), sep="  ")


if __name__ == "__main__":
    main()
