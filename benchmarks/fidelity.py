"""LEFF against FedAvg and the paper's literal procedure: quality, and what it costs.

    .venv/bin/python -m benchmarks.fidelity --task sst2 --partitions 5         # MiniLM, hours
    .venv/bin/python -m benchmarks.fidelity --task sample --json               # the built-in model

All sides have the same splits, seeds, start model, rounds and clients.  The clients of `leff` and
`leff-paper` train one layer each (`--layers`).  `fedavg` is McMahan et al.'s.  LEFF has aids for
skewed labels by default.  On request there are `fedavg-aided` and `slora-aided`, with the same aids
(`AIDED`), `leff-unaided`, `fedavg-calibrated` with LEFF's loss for classifiers, both with two local
epochs, LEFF with another sampling, and the other methods.  A task is any of GLUE's in LEFF_DATA
(model MiniLM-L6), `sample` (the built-in task and model) or `e2e` (the 260K Llama).

A row per side, figures in points (100 times the task's metric, on validation examples after each
round): `mean_last5` and `worst_last5` over the last five rounds, means over the partitions;
`difference` is the mean paired difference of `mean_last5` to the first side's (FedAvg's, unless
`--sides` says otherwise: importance against other samplings is ``--sides leff leff-random
leff-round-robin leff-clients``), with a 95 % interval.
`client_bytes` is the training state (weights, gradients, optimizer) measured on the largest
client, `client_bytes_predicted` what `leff.runs.plans` said, `step_flops` its floating-point
operations in a step at full length; `round_steps` are all clients' steps of a round,
`server_seconds` planning and merging, `download_bytes` and `upload_bytes` of a round, over all
clients.

Learning rates: each side has its own, the best of the grid in `--tune`, which takes a partition
that is not among those reported.  Without it the rates in `RATES`, which were found so.

Products are in float32, since a processor without the instructions for bfloat16 takes seven times
as long for it.  GLUE's runs are measured in the last five rounds only: others are not reported.

`--set KEY=VALUE ...` (a JSON value) sets options of all sides, over those of the task.

With `--keep FOLDER` the runs stay there, and those that were interrupted go on.  With `--results
FOLDER` each run's figures are a file there, and what is there is not run again.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t

import leff
from leff.files import read_json, write_json
from leff.runs.config import load_config
from leff.runs.options import RunConfig
from leff.runs.plans import planned
from leff.sweeps.keys import run_key

AIDED = {
    "training.levelled": True,
    "training.calibrated": True,
    "training.calibrated_from": 0.1,
}
"""Aids for skewed labels (docs/do/one-label.md); `method.weights` is each side's better one."""
UNAIDED = {
    "training.levelled": False,
    "training.calibrated_from": 0.0,
    "method.weights": "examples",
    "method.mixed": False,
}
SIDES: dict[str, dict[str, Any]] = {
    "fedavg": {"method.name": "fedavg"},
    "fedavg-aided": {"method.name": "fedavg", **AIDED},
    "fedavg-calibrated": {"method.name": "fedavg", "training.calibrated": True},
    "fedavg-two-epochs": {"method.name": "fedavg", "training.epochs": 2.0},
    "leff": {},
    "leff-unaided": UNAIDED,
    "leff-random": {"method.sampling": "random"},
    "leff-round-robin": {"method.sampling": "round_robin"},
    "leff-clients": {"method.source": "clients"},
    "leff-paper": {"preset": "paper"},
    "leff-two-epochs": {"training.epochs": 2.0},
    "fedbitfit": {"method.name": "fedbitfit"},
    "fedlora": {"method.name": "fedlora"},
    "fedlora-nf4": {"method.name": "fedlora", "method.base_bits": 4},
    "slora": {"method.name": "slora"},
    "slora-aided": {"method.name": "slora", **AIDED, "method.weights": "steps"},
    "flora": {"method.name": "flora"},
    "flexlora": {"method.name": "flexlora"},
}
GRID = (5e-5, 1e-4, 2e-4, 4e-4)  # of whole layers in MiniLM
TIMES = 10  # that much for biases and adapters, and for whole layers of the small decoders
TUNING_SEED = 1000
GLUE: dict[str, Any] = {
    "model.name": "sentence-transformers/all-MiniLM-L6-v2",
    "data.max_length": 64,
    "data.train_examples": 3000,
    "proxy.task": "wnli",
    "evaluation.examples": 1000,
    "evaluation.final_examples": 16,  # the rounds are what is reported
    "evaluation.gap_clients": 1,
    "evaluation.gap_examples": 32,
    "evaluation.every": 1000,
    "evaluation.last": 5,
}
"""Settings of the tasks, over the defaults: the same for every side."""
TASKS: dict[str, dict[str, Any]] = {
    "sample": {"evaluation.final_examples": 16},
    "e2e": {
        "model.name": "stories260K",
        "data.max_length": 256,
        "data.train_examples": 3000,
        "proxy.task": "webnlg",
        "clients.by": "food",
        "evaluation.final_examples": 16,
        "evaluation.examples": 500,  # on 64 inputs BLEU swings by ten points
        "evaluation.max_new_tokens": 128,
    },
}
ADAPTED = ("fedbitfit", "fedlora", "slora", "flora", "flexlora")
RATES: dict[str, dict[str, float]] = {  # a side's own, or its method's; see docs/LOG.md
    "glue": {
        "fedavg": 2e-4,
        "leff": 4e-4,
        "leff-paper": 1e-4,
        **dict.fromkeys(ADAPTED, 2e-3),
    },
    "sample": {"fedavg": 2e-3, "leff": 4e-3, "leff-paper": 5e-4, **dict.fromkeys(ADAPTED, 4e-3)},
    "e2e": {
        "fedavg": 2e-3,
        "leff": 8e-3,
        "leff-paper": 2e-3,
        "leff-two-epochs": 4e-3,
        **dict.fromkeys(ADAPTED, 4e-3),
    },
}


HARSH = {"leff": 2e-4}  # GLUE's classifiers at α .1 and less; STS-B does better with 4e-4


def shared_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that all sides share."""
    options = {
        **TASKS.get(arguments.task, GLUE),
        "data.task": arguments.task,
        "training.rounds": arguments.rounds,
        "clients.count": arguments.clients,
        "clients.layers": arguments.layers,
        "clients.alpha": arguments.alpha,
    }
    options |= {"data.train_examples": arguments.examples} if arguments.examples else {}
    options |= {"training.epochs": arguments.epochs} if arguments.epochs else {}
    return options | dict(arguments.set)


def setting(text: str) -> tuple[str, Any]:
    """Return key and value of `KEY=VALUE`; ValueError where the value is no JSON."""
    key, _, value = text.partition("=")
    return key, json.loads(value)


def one_run(side: str, options: Mapping[str, Any], keep: Path, results: Path) -> dict[str, Any]:
    """Return a run's figures, from `results` if they are there."""
    config = load_config(None, {**SIDES[side], **options})
    name = f"{side}-{config.seed}-{run_key(config)}"
    known = read_json(results / f"{name}.json", "delete it")
    if known is not None:
        return known["figures"]
    figures = run_of(config, keep / name)
    given = {**SIDES[side], **options}
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{name}.json", {"side": side, "options": given, "figures": figures})
    return figures


def run_of(config: RunConfig, folder: Path) -> dict[str, Any]:
    """Run a configuration, or what is left of the run in `folder`, and return its figures."""
    there = (folder / "config.toml").exists()
    run = leff.resume(folder) if there else leff.run(config, out=folder)
    start, *records = run.records()
    curve = [None if record.metric is None else 100 * record.metric for record in records]
    last = [metric for metric in curve[-5:] if metric is not None]
    clients = [client for record in records for client in record.clients]
    names = ("download_bytes", "upload_bytes", "plan_seconds", "merge_seconds", "seconds")
    means = {name: statistics.mean(getattr(record, name) for record in records) for name in names}
    norms = [client.norm for client in clients if client.norm is not None]
    levelling = sum(record.level.download_bytes for record in records if record.level)
    predicted = planned(
        config.model.name, config.method.name, config, layers=max(config.clients.layers)
    )
    return {
        "mean_last5": statistics.mean(last),
        "worst_last5": min(last),
        "before": 100 * start.metric,
        "client_bytes": max(client.state_bytes for client in clients),
        "client_bytes_predicted": predicted["total_bytes"],
        "step_flops": predicted["step_flops"],
        "round_steps": sum(client.steps for client in clients) / len(records),
        "server_seconds": means["plan_seconds"] + means["merge_seconds"],
        "round_seconds": means["seconds"],
        "download_bytes": means["download_bytes"] + levelling / len(records),
        "upload_bytes": means["upload_bytes"],
        "median_norm": statistics.median(norms) if norms else None,
        "noise": run.result.get("privacy", {}).get("noise"),
        "curve": curve,
    }


def tuned(
    side: str, options: Mapping[str, Any], rates: Sequence[float], keep: Path, results: Path
) -> float:
    """Return the learning rate of the grid with the best `mean_last5` on the tuning split."""
    given = {**options, "seed": TUNING_SEED}
    found = {
        rate: one_run(side, {**given, "training.learning_rate": rate}, keep, results)["mean_last5"]
        for rate in rates
    }
    for rate, value in found.items():
        print(f"tuning {side}: {rate:g} gives {value:.2f}", file=sys.stderr)
    return max(found, key=lambda rate: found[rate])


def grid(side: str, task: str) -> list[float]:
    """Return the usual learning rates to try."""
    plain = side.partition("-")[0] not in ADAPTED and task not in TASKS
    return [rate * (1 if plain else TIMES) for rate in GRID]


def known_rate(side: str, task: str, alpha: float = 0.5) -> float:
    """Return a side's learning rate: its own, where it was tuned, else its method's."""
    rates = RATES[task if task in TASKS else "glue"]
    if task not in (*TASKS, "stsb") and alpha <= 0.1:
        rates = {**rates, **HARSH}
    return rates[side if side in rates else side.partition("-")[0]]


def compare(arguments: argparse.Namespace, keep: Path, results: Path) -> list[dict[str, Any]]:
    """Return a row for each side."""
    options, rows = shared_options(arguments), []
    for side in arguments.sides:
        if arguments.rate is not None:
            rate = arguments.rate
        elif arguments.tune is None:
            rate = known_rate(side, arguments.task, arguments.alpha)
        else:
            rates = arguments.tune or grid(side, arguments.task)
            rate = tuned(side, options, rates, keep, results)
        runs = [
            one_run(side, {**options, "training.learning_rate": rate, "seed": seed}, keep, results)
            for seed in range(arguments.seed, arguments.seed + arguments.partitions)
        ]
        first = rows[0]["runs"] if rows else runs
        rows.append(
            {
                "method": side,
                "task": arguments.task,
                "learning_rate": rate,
                "partitions": len(runs),
                **{
                    key: statistics.mean(run[key] for run in runs)
                    for key in runs[0]
                    if key not in ("curve", "median_norm", "noise")
                },
                "deviation": statistics.stdev(r["mean_last5"] for r in runs)
                if len(runs) > 1
                else 0.0,
                "difference": paired(
                    [a["mean_last5"] - b["mean_last5"] for a, b in zip(runs, first, strict=True)]
                ),
                "runs": runs,
            }
        )
    return rows


def paired(differences: Sequence[float]) -> dict[str, float | None]:
    """Return the mean difference and its 95 % interval (Student's t), which one pair has not."""
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    half = t.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def show(row: Mapping[str, Any]) -> str:
    difference = row["difference"]
    interval = (
        ""
        if difference["low"] is None
        else f" ({difference['low']:+.1f} to {difference['high']:+.1f})"
    )
    return (
        f"{row['method']:<18} rate {row['learning_rate']:g}  last 5: {row['mean_last5']:.1f} "
        f"± {row['deviation']:.1f}, worst {row['worst_last5']:.1f}  "
        f"to the first {difference['mean']:+.1f}{interval}  client "
        f"{row['client_bytes'] / 1e6:.1f} MB "
        f"({row['client_bytes_predicted'] / 1e6:.1f} predicted), "
        f"{row['step_flops'] / 1e9:.1f} GFLOP a step, {row['round_steps']:.0f} steps a round  "
        f"server {row['server_seconds']:.1f} s, "
        f"down {row['download_bytes'] / 1e6:.0f} MB, up {row['upload_bytes'] / 1e6:.0f} MB a round"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", default="sst2")
    add("--sides", nargs="+", choices=SIDES, default=["fedavg", "leff", "leff-paper"])
    add("--partitions", type=int, default=5, help="paired splits and seeds")
    add("--rounds", type=int, default=10)
    add("--examples", type=int, help="training examples; 3000, of the built-in task 1280")
    add("--epochs", type=float, help="local epochs of a round, of all sides; 1 by default")
    add("--clients", type=int, default=8)
    add("--layers", type=int, nargs="+", default=[1], help="capacities, repeated over clients")
    add("--alpha", type=float, default=0.5)
    add("--seed", type=int, default=0, help="of the first partition")
    add("--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE")
    add("--tune", type=float, nargs="*", help="learning rates to try; without any, the usual grid")
    add("--rate", type=float, help="learning rate of all sides, instead of their own")
    add("--keep", type=Path, help="folder for the runs; those that were interrupted go on")
    add(
        "--results", type=Path, help="folder for each run's figures; what is there is not run again"
    )
    add("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        rows = compare(arguments, keep, arguments.results or keep)
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
