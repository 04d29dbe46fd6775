"""LEFF against FedAvg on the built-in run: the same split, seed and rounds, each at its own rate.

    .venv/bin/python -m benchmarks.sample                       # 3 seeds, about 10 minutes
    .venv/bin/python -m benchmarks.sample --contexts quantise distil drop --seeds 3 --json

A row per method and context: BLEU on the 200 test inputs before and after, the mean and worst of
the last five rounds on the validation inputs, each as mean and standard deviation over seeds;
bytes down and up over the run; seconds.  `ratio` is the BLEU after, over FedAvg's of the same seed.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import leff
from benchmarks.fidelity import RATES


def one_run(method: str, context: str, seed: int, options: dict[str, Any]) -> dict[str, float]:
    """Run the built-in task and return its figures."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = leff.run(
            out=Path(folder) / "run",
            seed=seed,
            **{"training.learning_rate": RATES["sample"][method]},
            **{"method.name": method, "context.name": context, **options},
        )
        last = [r.metric for r in run.records() if r.metric is not None][-5:]
    return {
        "before": run.before["BLEU"] or 0.0,
        "after": run.after["BLEU"] or 0.0,
        "mean_last5": statistics.mean(last),
        "worst_last5": min(last),
        "download_bytes": run.result["download_bytes"],
        "upload_bytes": run.result["upload_bytes"],
        "seconds": time.perf_counter() - started,
    }


def compare(
    contexts: Sequence[str], seeds: Sequence[int], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return a row for FedAvg and one for LEFF in every context."""
    rows = []
    marks: list[float] = []
    for method, context in [("fedavg", "none"), *(("leff", context) for context in contexts)]:
        used = context if method == "leff" else "quantise"
        runs = [one_run(method, used, seed, options) for seed in seeds]
        marks = marks or [run["after"] for run in runs]
        row: dict[str, Any] = {"method": method, "context": context, "seeds": len(seeds)}
        for key in runs[0]:
            row[key] = _summary([run[key] for run in runs])
        row["ratio"] = _summary(
            [run["after"] / mark for run, mark in zip(runs, marks, strict=True)]
        )
        rows.append(row)
    return rows


def _summary(values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.mean(values), "deviation": deviation}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contexts", nargs="+", default=["quantise"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    options = {"training.rounds": arguments.rounds} if arguments.rounds else {}
    rows = compare(arguments.contexts, range(arguments.seeds), options)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        figures = "  ".join(
            f"{key} {row[key]['mean']:.3f} ± {row[key]['deviation']:.3f}"
            for key in ("before", "after", "mean_last5", "worst_last5", "ratio")
        )
        megabytes = (row["download_bytes"]["mean"] + row["upload_bytes"]["mean"]) / 1e6
        seconds = row["seconds"]["mean"]
        print(
            f"{row['method']:<7}{row['context']:<9} {figures}  {megabytes:.0f} MB  {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
