"""What noise costs: LEFF, FedLoRA and FedAvg at equal ε, with many clients.

    .venv/bin/python -m benchmarks.private --task sample --clients 40 200       # hours
    .venv/bin/python -m benchmarks.private --task sst2 --clients 40 --json

All sides have the same splits, seeds, rounds, clients and δ, and every client takes part in each
round.  A row per side, number of clients and ε: `mean_last5` as in `benchmarks.fidelity`, the mean
and deviation over `--partitions` seeds; `noise` is the deviation in units of the clip.  ε = inf is
the same sum, clipped, without noise.

The clip is each side's own for each ε and number of clients: the best of `--clips` times the median
norm of what its clients change in a run without privacy, on a seed that is not among those
reported.  A smaller clip means smaller steps and as much less noise.
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

from benchmarks.fidelity import (
    SIDES,
    TUNING_SEED,
    known_rate,
    one_run,
    setting,
    shared_options,
)

EPSILONS = (2.0, 8.0, math.inf)
CLIPS = (0.1, 0.3, 0.6, 1.0)


def private(epsilon: float, clip: float, clients: int) -> dict[str, Any]:
    """Return the options of a run with this budget; noise is of the seed, so that it repeats."""
    options: dict[str, Any] = {
        "privacy.clip": clip,
        "privacy.delta": 0.1 / clients,
        "privacy.reproducible": True,
    }
    return options | (
        {"privacy.noise": 0.0} if math.isinf(epsilon) else {"privacy.epsilon": epsilon}
    )


def compare(arguments: argparse.Namespace, keep: Path, results: Path) -> list[dict[str, Any]]:
    """Return a row for each number of clients, side and ε."""
    rows = []
    for clients in arguments.clients:
        shared = shared_options(argparse.Namespace(**{**vars(arguments), "clients": clients}))
        shared |= {"clients.min_examples": 1, "evaluation.gap_clients": 0}
        for side in arguments.sides:
            own = known_rate(side, arguments.task, arguments.alpha)
            rate = own if arguments.rate is None else arguments.rate
            options = {**shared, "training.learning_rate": rate}
            for epsilon in arguments.epsilons:
                clip = tuned_clip(side, options, clients, epsilon, arguments.clips, keep, results)
                runs = [
                    one_run(
                        side,
                        {**options, **private(epsilon, clip, clients), "seed": seed},
                        keep,
                        results,
                    )
                    for seed in range(arguments.seed, arguments.seed + arguments.partitions)
                ]
                rows.append(row_of(side, clients, epsilon, clip, rate, runs))
                print(show(rows[-1]), file=sys.stderr, flush=True)
    return rows


def tuned_clip(
    side: str,
    options: Mapping[str, Any],
    clients: int,
    epsilon: float,
    shares: Sequence[float],
    keep: Path,
    results: Path,
) -> float:
    """Return the clip with the best `mean_last5` at this ε, on the tuning seed.

    A single one is not tried.
    """
    given = {**options, "seed": TUNING_SEED}
    median = one_run(side, given, keep, results)["median_norm"]
    clips = [float(f"{share * median:.3g}") for share in shares]
    if len(clips) == 1:
        return clips[0]
    found = {
        clip: one_run(side, {**given, **private(epsilon, clip, clients)}, keep, results)[
            "mean_last5"
        ]
        for clip in clips
    }
    print(
        f"tuning {side}, {clients} clients, ε {epsilon:g}: median norm {median:.3g}, {found}",
        file=sys.stderr,
    )
    return max(found, key=lambda clip: found[clip])


def row_of(
    side: str,
    clients: int,
    epsilon: float,
    clip: float,
    rate: float,
    runs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    own = [run["mean_last5"] for run in runs]
    return {
        "method": side,
        "clients": clients,
        "epsilon": epsilon if math.isfinite(epsilon) else None,
        "clip": clip,
        "learning_rate": rate,
        "noise": runs[0]["noise"],
        "mean_last5": statistics.mean(own),
        "deviation": statistics.stdev(own) if len(own) > 1 else None,
        "before": statistics.mean(run["before"] for run in runs),
        "partitions": len(runs),
        "runs": list(runs),
    }


def show(row: Mapping[str, Any]) -> str:
    budget = "inf" if row["epsilon"] is None else f"{row['epsilon']:g}"
    spread = "" if row["deviation"] is None else f" ± {row['deviation']:.1f}"
    return (
        f"{row['clients']:>4} clients  {row['method']:<8} ε {budget:<4} noise {row['noise']:.2f}, "
        f"clip {row['clip']:g}  before {row['before']:.1f}  last 5: {row['mean_last5']:.1f}{spread}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", default="sample")
    add("--clients", type=int, nargs="+", default=[40, 200])
    add("--sides", nargs="+", choices=SIDES, default=["leff", "fedlora", "fedavg"])
    add("--epsilons", type=float, nargs="+", default=list(EPSILONS))
    add("--clips", type=float, nargs="+", default=list(CLIPS), help="of the median norm")
    add("--partitions", type=int, default=3)
    add("--rounds", type=int, default=10)
    add("--examples", type=int)
    add("--epochs", type=float)
    add("--layers", type=int, nargs="+", default=[1])
    add("--alpha", type=float, default=0.5)
    add("--seed", type=int, default=200)
    add("--rate", type=float, help="learning rate of all sides, instead of their own")
    add("--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE")
    add("--keep", type=Path)
    add("--results", type=Path)
    add("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        rows = compare(arguments, keep, arguments.results or keep)
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
