"""Forms of upload on the built-in run: bytes and quality of full, bf16 and int8.

    .venv/bin/python -m benchmarks.upload                       # 3 seeds of 4 rounds
    .venv/bin/python -m benchmarks.upload --methods leff --set data.train_examples=320

A row per method and form: bytes up over the run and as a share of full's; validation loss (nats)
after the last round and BLEU on the test inputs, each as mean and standard deviation over seeds.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import leff
from benchmarks.fidelity import setting
from leff.wire.messages import Upload


def one_run(method: str, upload: str, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Run the built-in task and return its figures."""
    with tempfile.TemporaryDirectory() as folder:
        choice = {"method.name": method, "engine.upload": upload}
        given = {"evaluation.gap_clients": 0, **options, **choice}
        run = leff.run(out=Path(folder) / "run", seed=seed, **given)
        loss = run.records()[-1].loss
    return {
        "loss": float("nan") if loss is None else loss,
        "bleu": run.after["BLEU"] or 0.0,
        "upload_bytes": run.result["upload_bytes"],
    }


def compare(
    methods: Sequence[str], seeds: Sequence[int], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row for every method and form."""
    rows: list[dict[str, Any]] = []
    for method in methods:
        full = 0.0
        for upload in get_args(Upload):
            runs = [one_run(method, upload, seed, options) for seed in seeds]
            row: dict[str, Any] = {"method": method, "upload": upload, "seeds": len(seeds)}
            for key in runs[0]:
                values = [run[key] for run in runs]
                deviation = statistics.stdev(values) if len(values) > 1 else 0.0
                row[key] = {"mean": statistics.mean(values), "deviation": deviation}
            full = full or row["upload_bytes"]["mean"]
            rows.append({**row, "share": row["upload_bytes"]["mean"] / full})
    return rows


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:<9}{row['upload']:<6}{row['upload_bytes']['mean'] / 1e6:8.2f} MB "
        f"{row['share']:.3f}   loss {row['loss']['mean']:.4f} ± {row['loss']['deviation']:.4f}   "
        f"BLEU {row['bleu']['mean']:.2f} ± {row['bleu']['deviation']:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["leff", "fedavg"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    options = {"training.rounds": arguments.rounds, **dict(arguments.set)}
    rows = compare(arguments.methods, range(arguments.seeds), options)
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(map(_line, rows)))


if __name__ == "__main__":
    main()
