"""Theorem 1, measured: the smallest gradient norm against T, and the floor that contexts set.

    .venv/bin/python -m benchmarks.convergence --picture docs/convergence.png    # hours

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
one process a file.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import leff
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

SMALL_ERROR = 1e-4  # up to this Δ² the axis of the floor is linear, so that 0 is on it


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


def one_run(context: str, rounds: int, rate: float, seed: int, keep: Path | None) -> dict[str, Any]:
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


def row(
    context: str, lengths: Sequence[int], rate: float, seeds: Sequence[int], keep: Path | None
) -> dict[str, Any]:
    runs = {t: [one_run(context, t, rate, seed, keep) for seed in seeds] for t in lengths}
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
    """Draw ‖∇f‖² against T, and the floor against Δ²."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    falling, floor = figure.subplots(1, 2)
    for number, each in enumerate(rows):
        rounds, values = np.array(each["rounds"]), np.array(each["smallest"])
        spread = np.array(each["deviation"])
        label = f"{each['context']} (slope {each['slope']:.2f} ± {each['slope_deviation']:.2f})"
        falling.plot(rounds, values, marker="o", color=f"C{number}", label=label)
        low = np.maximum(values - spread, values / 3)  # a logarithm has no room below 0
        falling.fill_between(rounds, low, values + spread, color=f"C{number}", alpha=0.15)
        whisker = [[values[-1] - low[-1]], [spread[-1]]]
        floor.errorbar(
            each["gradient_error"],
            values[-1],
            whisker,
            marker="o",
            capsize=3,
            color=f"C{number}",
            label=each["context"],
        )
    first = rows[0]
    guide = [first["smallest"][0] * (t / first["rounds"][0]) ** -0.5 for t in first["rounds"]]
    falling.plot(first["rounds"], guide, "k--", linewidth=1, label="1/√T")
    falling.set(
        xscale="log",
        yscale="log",
        xlabel="rounds T",
        ylabel="smallest ‖∇f‖²",
        title="Smallest gradient norm",
    )
    falling.set_xticks(first["rounds"], [str(t) for t in first["rounds"]])
    falling.xaxis.set_minor_locator(NullLocator())
    falling.legend(fontsize=8)
    floor.set(
        yscale="log",
        xlabel="Δ², relative gradient error of the context",
        ylabel=f"smallest ‖∇f‖² in {first['rounds'][-1]} rounds",
        title="Floor",
    )
    floor.set_xscale("symlog", linthresh=SMALL_ERROR)
    floor.set_xlim(-SMALL_ERROR / 2, 3 * max(SMALL_ERROR, *(r["gradient_error"] for r in rows)))
    floor.legend(fontsize=8)
    for axis in (falling, floor):
        axis.grid(alpha=0.3, which="both")
    save_figure(figure, path)


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
    add("--picture", type=Path)
    add("--json", action="store_true")
    given = parser.parse_args()
    rows = [
        row(c, given.rounds, given.rate, range(given.seeds), given.keep) for c in given.contexts
    ]
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
