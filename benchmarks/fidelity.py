"""LEFF against FedAvg and the paper's literal procedure: quality, and what it costs.

    .venv/bin/python -m benchmarks.fidelity --task sst2 --partitions 5         # MiniLM, 45 minutes
    .venv/bin/python -m benchmarks.fidelity --task sample --json               # the built-in model

All sides have the same splits, seeds, start model, rounds and clients.  The clients of `leff` and
`leff-paper` train one layer each (`--layers`).  `fedavg` is McMahan et al.'s; `fedavg-calibrated`
(on request) has LEFF's default loss for classifiers too.  A task is any of GLUE's in LEFF_DATA
(model MiniLM-L6), `sample` (the built-in task and model) or `e2e` (the 260K Llama).

A row per side, figures in points (100 times the task's metric, on validation examples after each
round): `mean_last5` and `worst_last5` over the last five rounds, means over the partitions;
`difference` is the mean paired difference of `mean_last5` to FedAvg's, with a 95 % interval.
`client_bytes` is the training state (weights, gradients, optimizer) measured on the largest
client, `client_bytes_predicted` what `leff.cost` said, `step_flops` its floating-point operations
in a step; `server_seconds` planning and merging, `download_bytes` and `upload_bytes` are of a
round, over all clients.

Learning rates: each side has its own, the best of the grid in `--tune`, which takes a partition
that is not among those reported.  Without it the rates in `RATES`, which were found so.

With `--keep FOLDER` the runs stay there, and those that are there already are not run again.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import leff

SIDES: dict[str, dict[str, Any]] = {
    "fedavg": {"method.name": "fedavg", "training.calibrated": False},
    "fedavg-calibrated": {"method.name": "fedavg", "training.calibrated": True},
    "leff": {},
    "leff-paper": {"preset": "paper"},
}
GRID = (5e-5, 1e-4, 2e-4)  # for MiniLM; ten times that for the small decoders
TUNING_SEED = 1000
GLUE: dict[str, Any] = {
    "model.name": "sentence-transformers/all-MiniLM-L6-v2",
    "data.max_length": 64,
    "data.train_examples": 3000,
    "proxy.task": "wnli",
    "evaluation.examples": 1000,
    "evaluation.final_examples": 16,  # the rounds are what is reported
    "training.precision": "bfloat16",
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
        "evaluation.max_new_tokens": 128,
    },
}
RATES: dict[str, dict[str, float]] = {}  # found by --tune; see docs/LOG.md


def settings(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that all sides share."""
    return {
        **TASKS.get(task, GLUE | {"data.task": task}),
        **({"data.task": task} if task in TASKS else {}),
        "training.rounds": arguments.rounds,
        "clients.count": arguments.clients,
        "clients.layers": arguments.layers,
        "clients.alpha": arguments.alpha,
        **({"data.train_examples": arguments.examples} if arguments.examples else {}),
    }


def grid(task: str) -> tuple[float, ...]:
    return tuple(10 * rate for rate in GRID) if task in TASKS else GRID


def one_run(side: str, options: Mapping[str, Any], keep: Path) -> dict[str, float]:
    """Run a side, unless `keep` has the run already, and return its figures."""
    name = "-".join(
        f"{key.rpartition('.')[2]}={Path(str(value)).name}" for key, value in sorted(options.items())
    )
    folder = keep / f"{side}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    if (folder / "config.toml").exists():
        run = leff.resume(folder)
    else:
        run = leff.run(out=folder, **{**SIDES[side], **options})
    records = run.records()[1:]
    last = [100 * record["metric"] for record in records[-5:]]
    clients = [client for record in records for client in record["clients"]]
    per_round = ("download_bytes", "upload_bytes", "plan_seconds", "merge_seconds", "seconds")
    means = {key: statistics.mean(record[key] for record in records) for key in per_round}
    largest = max(clients, key=lambda client: client["state_bytes"])
    return {
        "mean_last5": statistics.mean(last),
        "worst_last5": min(last),
        "before": 100 * run.records()[0]["metric"],
        "client_bytes": largest["state_bytes"],
        "client_bytes_predicted": largest["predicted_bytes"],
        "step_flops": statistics.mean(client["step_flops"] for client in clients),
        "server_seconds": means["plan_seconds"] + means["merge_seconds"],
        "round_seconds": means["seconds"],
        "download_bytes": means["download_bytes"],
        "upload_bytes": means["upload_bytes"],
        "curve": [100 * record["metric"] for record in records],
    }
