"""Methods beside each other on a real model: quality, memory, speed, bytes, seconds on a device.

    .venv/bin/python -m benchmarks.real --model smollm2 --task e2e --keep runs/real      # hours
    .venv/bin/python -m benchmarks.real --model mpnet --task sst2 --sides leff fedlora-nf4 --json

A run of each side and seed has the options of `leff/examples/small.toml`, of the task (`TASKS`) and
of the side (`SIDES`).  A run's figures are kept in a file of `--results`, and what is there is not
run again.  With `--keep FOLDER` runs that were interrupted go on.

A row per side, means over the seeds: `quality` at the end, on `final_examples` test inputs, with
its deviation, and `zero_shot` before any training; `peak_bytes` and `tokens_per_second` of a
client's step, measured in a process of its own (`benchmarks.device`: the same sizes with random
weights, the task's mean length and share of labels, one thread); bytes of the whole run down and
up, over all clients; `device_seconds` of the run on devices of the class `DEVICE`, where a round
lasts as long as its slowest client (transfers and operations, `capacity.clock`).

Learning rates: `--tune` takes the best of a grid on a smaller run (`SMALLER`) with another seed,
and writes it into the results; without it the rates there are used, or else the grid's second.
"""

import argparse
import json
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import leff
from benchmarks.device import HEAPS, Side, layouts, measure
from benchmarks.fidelity import setting
from leff.capacity.clock import Needs, round_seconds
from leff.files import read_json, write_json
from leff.methods.registry import spec_of
from leff.runs.budgets import setup_of
from leff.runs.config import RunConfig, load_config
from leff.runs.plans import planned, shape_of
from leff.runs.sources import load_start, task_of, text_form
from leff.sweeps.keys import run_key
from leff.tasks.encode import encode
from leff.wire.messages import Device

BASE = Path(leff.__file__).parent / "examples" / "small.toml"
SIDES: dict[str, dict[str, Any]] = {
    "fedavg": {"method.name": "fedavg"},
    "fedlora": {"method.name": "fedlora"},
    "fedlora-nf4": {"method.name": "fedlora", "method.base_bits": 4},
    "slora": {"method.name": "slora"},
    "leff": {},
    "leff-distil": {"context.name": "distil", "context.rate": 0.5},
}
TASKS: dict[str, dict[str, Any]] = {
    "e2e": {},
    "sst2": {
        "data.max_length": 64,
        "data.train_examples": 1000,
        "proxy.task": "wnli",
        "clients.by": "label",
        "evaluation.examples": 200,
        "evaluation.final_examples": 872,
    },
    "stsb": {
        "data.max_length": 64,
        "data.train_examples": 1000,
        "proxy.task": "wnli",
        "clients.by": "label",
        "evaluation.examples": 200,
        "evaluation.final_examples": 1000,
    },
}
GRIDS = {"whole": (5e-5, 1e-4, 2e-4, 4e-4), "adapters": (5e-4, 1e-3, 2e-3, 4e-3)}
SMALLER = {"training.rounds": 2, "evaluation.every": 100, "evaluation.final_examples": 300}
"""Of tuning.  Rounds are as long as in a whole run: a rate may do well in short ones alone."""
TUNING_SEED = 1000
DEVICE = Device("laptop", 8 * 10**9, 50e9, 20e6 / 8, 10e6 / 8)  # 50 GFLOP/s, 20 and 10 Mbit/s
PROBED = 200  # training examples of which the mean length and the share of labels are taken


def options_of(given: Namespace, side: str, rate: float, seed: int) -> dict[str, Any]:
    """Return the options of a run, over those of `BASE`."""
    own = {"training.learning_rate": rate, "seed": seed, "model.name": given.model}
    own |= {"data.task": given.task, "engine.workers": given.workers}
    return {**TASKS.get(given.task, {}), **SIDES[side], **own, **dict(given.set)}


def finished(given: Namespace, config: RunConfig, side: str, keep: Path) -> leff.Run:
    """Run, go on with, or read a run."""
    folder = keep / f"{side}-{run_key(config)}"
    there = (folder / "config.toml").exists()
    return leff.resume(folder) if there else leff.run(config, out=folder)


def one_run(given: Namespace, side: str, seed: int, keep: Path) -> dict[str, Any]:
    """Return a run's figures, from its result file if there is one."""
    config = load_config(BASE, options_of(given, side, rate_of(given, side), seed))
    name = f"{Path(given.model).name}-{given.task}-{side}-{seed}-{run_key(config)}.json"
    path = given.results / name
    known = read_json(path, "delete it, so that it is run again")
    if known is not None:
        return known
    run = finished(given, config, side, keep)
    start, *records = run.records()
    result = run.result
    shaped = at_mean_length(given, config)
    step_flops = planned(config.model.name, config.method.name, shaped, layers=1)["step_flops"]
    seconds = [
        max(
            round_seconds(
                Needs(each.download_bytes, each.upload_bytes, step_flops), DEVICE, each.steps
            ).total
            for each in record.clients
        )
        for record in records
    ]
    figures = {
        "side": side,
        "seed": seed,
        "learning_rate": config.training.learning_rate,
        "metric": result["metric"],
        "quality": result["after"]["metrics"][result["metric"]],
        "zero_shot": result["before"]["metrics"][result["metric"]],
        "metrics": result["after"]["metrics"],
        "download_bytes": result["download_bytes"],
        "upload_bytes": result["upload_bytes"],
        "device_seconds": sum(seconds),
        "curve": [
            {
                "metric": record.metric,
                "loss": record.loss,
                "bytes": (record.download_bytes or 0) + (record.upload_bytes or 0),
                "device_seconds": spent,
            }
            for record, spent in zip([start, *records], [0.0, *seconds], strict=True)
        ],
        "options": config.model_dump(mode="json", exclude={"engine", "model"}),
    }
    given.results.mkdir(parents=True, exist_ok=True)
    write_json(path, figures)
    return figures


def rate_of(given: Namespace, side: str) -> float:
    """Return a side's learning rate, tuned if asked for, else known, else the grid's second."""
    path = given.results / f"{Path(given.model).name}-{given.task}-rates.json"
    known: dict[str, Any] = read_json(path, "delete it") or {}
    if side in known:
        return float(known[side]["rate"])
    rates = GRIDS["adapters" if "lora" in side else "whole"]
    if not given.tune:
        return rates[1]
    tried: dict[str, float] = {}
    for rate in rates:
        config = load_config(BASE, options_of(given, side, rate, TUNING_SEED) | SMALLER)
        with tempfile.TemporaryDirectory() as scratch:
            run = finished(given, config, side, Path(scratch))
            result = run.result
        tried[f"{rate:g}"] = result["after"]["metrics"][result["metric"]]
        print(f"tuning {side}: {rate:g} gives {tried[f'{rate:g}']:.4f}", file=sys.stderr)
    best = max(tried, key=lambda rate: tried[rate])
    given.results.mkdir(parents=True, exist_ok=True)
    write_json(path, {**known, side: {"rate": float(best), "tried": tried}})
    return float(best)


def at_mean_length(given: Namespace, config: RunConfig) -> RunConfig:
    """Return the configuration with the texts' mean length as its longest."""
    length, _ = shape_of_texts(json.dumps(options_of(given, "leff", 1e-3, given.seed)))
    data = config.data.model_copy(update={"max_length": length})
    return config.model_copy(update={"data": data})


@cache
def shape_of_texts(options: str) -> tuple[int, float]:
    """Return the mean length of `PROBED` training texts in tokens, and their share of labels."""
    config = load_config(BASE, {**json.loads(options), "data.train_examples": PROBED})
    task = task_of(config)
    _, tokenizer = load_start(config, task)
    rows = task.train.select(range(PROBED))
    form = text_form(config, task, tokenizer)
    examples = encode(rows, tokenizer, task.kind, config.data.max_length, form)
    tokens = sum(len(each.input_ids) for each in examples)
    learnt = sum(stop - start for each in examples for start, stop in each.learnt)
    return round(tokens / len(examples)), learnt / tokens


def device_row(given: Namespace, side: str) -> dict[str, Any]:
    """Return a client's measured peak and speed; both are means over the block's places."""
    options = options_of(given, side, rate_of(given, side), given.seed)
    config = at_mean_length(given, load_config(BASE, options))
    name = f"{Path(given.model).name}-{given.task}-{side}-device.json"
    known = read_json(given.results / name, "delete it")
    if known is not None:
        return known
    spec = spec_of(config.method.name)
    _, labelled = shape_of_texts(json.dumps(options_of(given, "leff", 1e-3, given.seed)))
    numbers = {"layers": 1} if spec.trains_blocks else {}
    setup = replace(setup_of(config, spec, **numbers), labelled=labelled)
    model_config, kind = shape_of(config.model.name, config)
    asked = Namespace(steps=3, device="cpu", threads=1, heap="system")
    measured = Side(side, spec, setup)
    runs = [
        measure(measured, model_config, kind, layout, asked)
        for layout in layouts(measured, model_config, kind)
    ]
    tokens = config.training.batch_size * config.data.max_length
    row = {
        "peak_bytes": statistics.mean(run["peak_bytes"] for run in runs),
        "peak_worst": max(run["peak_bytes"] for run in runs),
        "tokens_per_second": statistics.mean(
            tokens / statistics.median(run["seconds"]) for run in runs
        ),
        "precision": config.training.precision,
        "heap": HEAPS[asked.heap],
        "batch": config.training.batch_size,
        "length": config.data.max_length,
    }
    write_json(given.results / name, row)
    return row


def table(given: Namespace, keep: Path) -> list[dict[str, Any]]:
    """Return a row for each side."""
    rows: list[dict[str, Any]] = []
    for side in given.sides:
        runs = [one_run(given, side, given.seed + k, keep) for k in range(given.seeds)]
        qualities = [run["quality"] for run in runs]
        keys = ("zero_shot", "download_bytes", "upload_bytes", "device_seconds", "learning_rate")
        rows.append(
            {
                "method": side,
                "task": given.task,
                "metric": runs[0]["metric"],
                "seeds": len(runs),
                "quality": statistics.mean(qualities),
                "deviation": statistics.stdev(qualities) if len(runs) > 1 else None,
                **{key: statistics.mean(run[key] for run in runs) for key in keys},
                **device_row(given, side),
                "device_class": vars(DEVICE),
                "runs": runs,
            }
        )
    return rows


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the quality after each round against the bytes sent, and against device seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from leff.report.colours import colours_of
    from leff.report.picture import save_figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes, colours = figure.subplots(1, 2, sharey=True), colours_of(row["method"] for row in rows)
    for axis, key, scale, label in zip(
        axes,
        ("bytes", "device_seconds"),
        (1e-6, 1 / 60),
        ("sent and received by all clients (MB)", "time on the devices (minutes)"),
        strict=True,
    ):
        for row in rows:
            points, total = [], 0.0
            for each in row["runs"][0]["curve"][1:]:
                total += each[key] * scale
                if each["metric"] is not None:
                    points.append((total, each["metric"]))
            name = row["method"]
            axis.plot(*zip(*points, strict=True), marker=".", color=colours[name], label=name)
        start = rows[0]["runs"][0]["curve"][0]["metric"]
        axis.axhline(start, color="0.5", linestyle=":", label="before training")
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_xscale("log")
    axes[0].set_ylabel(f"{rows[0]['metric']}, validation")
    axes[1].legend(fontsize=8)
    save_figure(figure, path)


def show(row: Mapping[str, Any]) -> str:
    deviation = "" if row["deviation"] is None else f" ± {row['deviation']:.4f}"
    return (
        f"{row['method']:<12} {row['metric']} {row['quality']:.4f}{deviation} (before "
        f"{row['zero_shot']:.4f})  peak {row['peak_bytes'] / 1e6:.0f} MB  "
        f"{row['tokens_per_second']:.0f} tokens/s  down {row['download_bytes'] / 1e6:.1f} MB, up "
        f"{row['upload_bytes'] / 1e6:.1f} MB  {row['device_seconds'] / 60:.1f} min on a "
        f"{DEVICE.name}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="a folder, or a name in LEFF_MODELS or on the hub")
    add("--task", default="e2e")
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add("--seed", type=int, default=100, help="of the first run")
    add("--seeds", type=int, default=1)
    add("--tune", action="store_true")
    add("--workers", type=int, default=1)
    add("--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE")
    add("--results", type=Path, default=Path("results/real"))
    add("--keep", type=Path, help="folder for the runs; those that were interrupted go on")
    add("--picture", type=Path)
    add("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = table(given, given.keep or Path(scratch))
    if given.picture:
        draw(rows, given.picture)
    print(json.dumps(rows, indent=1) if given.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
