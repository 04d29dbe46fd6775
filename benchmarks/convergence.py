"""Theorem 1, measured: the smallest gradient norm against T, and the floor that contexts set.

    .venv/bin/python -m benchmarks.convergence --keep runs.json --picture convergence.png  # hours
    .venv/bin/python -m benchmarks.convergence --done results/convergence.json   # nothing is run

The theorem (Sec. 4) bounds the mean of ‖∇f‖² over T rounds, f the clients' common loss, by a term
that falls as 1/√T, for steps of size ~ 1/√T, and a floor that grows with Δ², how far a block's
gradient among stand-ins is from its gradient in the full model.  Here one-layer clients train for T
rounds at the rate `--rate` / √T, for each T apart; the norm is that of the full model over all
training examples, layers and tail, after every round.  The paper's merge and independent draws are
used; the clients' optimizer is AdamW as everywhere, which is not the theorem's.

A row per context, means over the seeds: `context_error` and Δ² (`gradient_error`, relative) as
recorded in the rounds; `smallest` ‖∇f‖² by T and its `deviation`; `slope` of its logarithm against
log T (the theorem's bound: -0.5), with the deviation over seeds; and `loss` of the full model on
validation examples after the last round of the longest run.

With `--keep FILE` finished runs stay there, and those that are there already are not run again;
one process a file.  `--done FILE` takes all runs from such a file, also one of an older version,
whose options had other defaults.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import leff
from benchmarks.labels import RIGHT, label, spread
from leff.client.model import trainable_parameters
from leff.files import read_json, write_json
from leff.models import blocks
from leff.models.forward import undisturbed
from leff.record import RoundRecord
from leff.report.picture import save_figure
from leff.runs.config import load_config
from leff.runs.federation import Silent
from leff.runs.folder import config_digest
from leff.runs.gap import mean_gradients
from leff.runs.options import RunConfig
from leff.tasks.encode import Example

CONTEXTS: dict[str, dict[str, Any]] = {
    "exact": {"context.name": "quantise", "context.bits": 32, "context.embedding_bits": 32},
    "8 bits": {"context.name": "quantise", "context.bits": 8},
    "4 bits": {"context.name": "quantise", "context.bits": 4},
    "distil .5": {"context.name": "distil", "context.bits": 32},
    "drop .5": {"context.name": "drop", "context.bits": 32},
}
OPTIONS: dict[str, Any] = {
    "preset": "paper",
    "clients.layers": [1],
    "data.train_examples": 256,
    "training.epochs": 0.25,
    "evaluation.gap_clients": 1,
    "evaluation.gap_examples": 64,
    "evaluation.gradient_error": True,
    "evaluation.final_examples": 8,
    "evaluation.max_new_tokens": 4,
    "evaluation.examples": 64,
}

LIGHTEST = 0.8  # of the colours from dark to light; the lightest are hard to see on white
ROOM = 0.6  # beside the last T, for the names of the lines, as a share of what is drawn
SMALL_ERROR = 1e-4  # up to this Δ² the axis of the floor is linear, so that 0 is on it


RunOf = Callable[[str, int, int], dict[str, Any]]  # context, rounds, seed -> the run


class Norms(Silent):
    """Measures ‖∇f‖² before the first and after every round."""

    def __init__(self) -> None:
        self.squared: list[float] = []

    def started(self, federation: Any) -> None:
        self._federation = federation

    def measured(self, record: RoundRecord) -> None:
        federation = self._federation
        config, evaluator = federation.config, federation.evaluator
        examples = evaluator.examples("train", config.data.train_examples)
        self.squared.append(
            gradient_norm(
                federation.model, examples, batch_size=64, pad_id=evaluator.tokenizer.pad_token_id
            )
        )


def gradient_norm(
    model: Any, examples: Sequence[Example], *, batch_size: int, pad_id: int
) -> float:
    """Return ‖∇f‖² of the mean loss f over the examples, in all layers and the tail.

    PAPER Sec. 4 (Theorem 1) bounds it.  The loss is the mean over the examples' labels, without
    dropout.  The model is left as it was.  Raises ValueError without any label.
    """
    with undisturbed(model):
        layers = {layer: layer for layer in range(len(blocks(model)))}
        parameters = trainable_parameters(model, layers)
        gradients = mean_gradients(model, parameters, examples, batch_size, pad_id)
    return float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum())


def one_run(context: str, rounds: int, seed: int, rate: float, keep: Path | None) -> dict[str, Any]:
    """Return the smallest ‖∇f‖² of a run of `rounds` rounds, and what its records say."""
    options = {
        **OPTIONS,
        **CONTEXTS[context],
        "training.rounds": rounds,
        "training.learning_rate": rate / math.sqrt(rounds),
        "seed": seed,
    }
    config = load_config(None, options)
    kept = read_json(keep, "remove it") if keep else None
    key, kept = config_digest(config)[:16], kept or {}
    if key not in kept:
        kept[key] = {"context": context, "rounds": rounds, "seed": seed} | _measured(config)
        if keep:
            write_json(keep, kept)
    return kept[key]


def _measured(config: RunConfig) -> dict[str, Any]:
    norms = Norms()
    with tempfile.TemporaryDirectory() as folder:
        run = leff.run(config, out=Path(folder) / "run", progress=norms)
        records = run.records()[1:]
    errors = [error for record in records for error in record.facts["context_error"].values()]
    plugged = [each for record in records for each in record.plug_in or ()]
    return {
        "smallest": min(norms.squared),
        "norms": norms.squared,
        "context_error": statistics.mean(errors) if errors else 0.0,
        "gradient_error": statistics.mean(each["gradient_error"] for each in plugged),
        "loss": records[-1].loss,
    }


def done_runs(path: Path) -> RunOf:
    """Return what finds a finished run in a file of `--keep`."""
    kept = (read_json(path, "take another file") or {}).values()
    runs = {(run["context"], run["rounds"], run["seed"]): run for run in kept}

    def find(context: str, rounds: int, seed: int) -> dict[str, Any]:
        if (context, rounds, seed) not in runs:
            raise SystemExit(f"{path} has no run of {context}, {rounds} rounds, seed {seed}")
        return runs[context, rounds, seed]

    return find


def row(
    context: str, lengths: Sequence[int], seeds: Sequence[int], run_of: RunOf
) -> dict[str, Any]:
    runs = {t: [run_of(context, t, seed) for seed in seeds] for t in lengths}
    smallest = {rounds: [run["smallest"] for run in own] for rounds, own in runs.items()}
    slopes = [
        float(np.polyfit(np.log(lengths), np.log([smallest[t][i] for t in lengths]), 1)[0])
        for i in range(len(seeds))
    ]
    longest = runs[max(lengths)]
    return {
        "context": context,
        "context_error": statistics.mean(run["context_error"] for run in longest),
        "gradient_error": statistics.mean(run["gradient_error"] for run in longest),
        "rounds": list(lengths),
        "seeds": len(seeds),
        "smallest": [statistics.mean(smallest[t]) for t in lengths],
        "deviation": [_deviation(smallest[t]) for t in lengths],
        "slope": statistics.mean(slopes),
        "slope_deviation": _deviation(slopes),
        "loss": statistics.mean(run["loss"] for run in longest),
    }


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw ‖∇f‖² against T, and the floor against Δ².  A context that errs more is lighter."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    falling, floor = figure.subplots(1, 2)
    shades = colormaps["plasma"](np.linspace(0, LIGHTEST, len(rows)))
    for each, colour in zip(rows, shades, strict=True):
        values, spread_of = np.array(each["smallest"]), np.array(each["deviation"])
        low = np.maximum(values - spread_of, values / 3)  # a logarithm has no room below 0
        falling.plot(each["rounds"], values, marker="o", markersize=4, color=colour)
        falling.fill_between(
            each["rounds"], low, values + spread_of, color=colour, alpha=0.12, linewidth=0
        )
        point, whisker = (
            (each["gradient_error"], values[-1]),
            [[values[-1] - low[-1]], [spread_of[-1]]],
        )
        floor.errorbar(*point, whisker, fmt="none", capsize=3, ecolor=colour)
        floor.scatter(*point, color=colour, zorder=3)
        label(floor, each["context"], point)
    _scale(falling, floor, rows)
    _name_lines(falling, rows)
    spread(falling, RIGHT)
    spread(floor)
    save_figure(figure, path)


def _scale(falling: Any, floor: Any, rows: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import NullLocator

    rounds = rows[0]["rounds"]
    falling.set(
        xscale="log",
        yscale="log",
        xlim=(0.9 * rounds[0], rounds[-1] * (rounds[-1] / rounds[0]) ** ROOM),
        xlabel="rounds T",
        ylabel="smallest ‖∇f‖²",
        title="Smallest gradient norm",
    )
    falling.set_xticks(rounds, [str(t) for t in rounds])
    falling.xaxis.set_minor_locator(NullLocator())
    floor.set(
        yscale="log",
        xlabel="Δ², relative gradient error of the context",
        ylabel=f"smallest ‖∇f‖² in {rounds[-1]} rounds",
        title="Floor",
    )
    floor.set_xscale("symlog", linthresh=SMALL_ERROR)
    largest = max(row["gradient_error"] for row in rows)
    floor.set_xlim(-SMALL_ERROR / 2, 10 * max(SMALL_ERROR, largest))
    for axis in (falling, floor):
        axis.grid(alpha=0.3)


def _name_lines(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the guide 1/√T, and name it and every line at its end."""
    first = rows[0]
    guide = [first["smallest"][0] * (t / first["rounds"][0]) ** -0.5 for t in first["rounds"]]
    axis.plot(first["rounds"], guide, "k--", linewidth=1)
    last = first["rounds"][-1]
    label(axis, "1/√T", (last, guide[-1]))
    for each in rows:
        slope = f"slope {each['slope']:.2f} ± {each['slope_deviation']:.2f}"
        label(axis, f"{each['context']}: {slope}", (last, each["smallest"][-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--contexts", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    add("--rounds", type=int, nargs="+", default=[4, 8, 16, 32], help="values of T")
    add("--rate", type=float, default=4e-3, help="AdamW's rate is this / √T")
    add("--seeds", type=int, default=3)
    add("--keep", type=Path, metavar="FILE")
    add("--done", type=Path, metavar="FILE")
    add("--picture", type=Path)
    add("--json", action="store_true")
    given = parser.parse_args()
    run_of = partial(one_run, rate=given.rate, keep=given.keep)
    if given.done:
        run_of = done_runs(given.done)
    rows = [row(each, given.rounds, range(given.seeds), run_of) for each in given.contexts]
    if given.picture:
        draw(rows, given.picture)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    for each in rows:
        values = "  ".join(
            f"{v:.3g} ± {d:.1g}" for v, d in zip(each["smallest"], each["deviation"], strict=True)
        )
        print(
            f"{each['context']:<10} error {each['context_error']:.3f}  Δ² "
            f"{each['gradient_error']:.3g}  slope {each['slope']:.2f} ± "
            f"{each['slope_deviation']:.2f}  loss {each['loss']:.3f}  T {each['rounds']}: {values}"
        )


if __name__ == "__main__":
    main()
