"""A fleet of three device classes on the virtual clock: LEFF, FedLoRA and FedAvg, with a deadline.

    .venv/bin/python -m benchmarks.deadline                     # 3 to 4 minutes of one core
    .venv/bin/python -m benchmarks.deadline --rounds 8 --deadline 10s --roomy --json

The built-in task; devices are as small beside its model as phones are beside a real one.  A row
per method, without a deadline and with it: simulated seconds of a round (median, least, most),
idle share, clients that sat out a round, share of the local steps done, all simulated seconds
with what is sent once, and the metric on the test inputs.  `--roomy` gives every device memory for
everything, so that time alone tells them apart.  Wall-clock time plays no part.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import leff
from benchmarks.fidelity import RATES
from benchmarks.processes import spread
from leff.client.steps import step_count

FLEET = """
[phone]
count = 4
memory = "{phone}"
speed = "2GFLOP/s"
down = "20Mbit/s"
up = "5Mbit/s"

[tablet]
count = 2
memory = "{tablet}"
speed = "8GFLOP/s"
down = "50Mbit/s"
up = "20Mbit/s"

[laptop]
count = 2
memory = "{laptop}"
speed = "40GFLOP/s"
down = "100Mbit/s"
up = "50Mbit/s"
"""
MEMORY = {"phone": "5MB", "tablet": "10MB", "laptop": "160MB"}
METHODS = ("leff", "fedlora", "fedavg")
BATCH = 16
NO_CHANGES: Mapping[str, Any] = MappingProxyType({})


def one_run(
    method: str,
    deadline: str,
    fleet: Path,
    rounds: int,
    examples: int,
    seed: int,
    changes: Mapping[str, Any] = NO_CHANGES,
) -> dict[str, Any]:
    """Run a method on the fleet, with other options changed, and return its row."""
    with tempfile.TemporaryDirectory() as folder:
        run = leff.run(
            out=Path(folder) / "run",
            rounds=rounds,
            seed=seed,
            train_examples=examples,
            **{
                "evaluation.final_examples": 50,
                "evaluation.gap_clients": 0,
                "method.name": method,
                "context.name": "auto" if method == "leff" else "quantise",
                "training.learning_rate": RATES["sample"].get(method, 4e-3),
                "training.batch_size": BATCH,
                "clients.fleet": fleet,
                "clients.deadline": deadline,
                **changes,
            },
        )
        records = run.records()[1:]
    clients = [client for record in records for client in record.clients]
    wanted = sum(step_count(1.0, BATCH, client.examples) for client in clients)
    seconds = [record.round_seconds_simulated for record in records]
    return {
        "method": method,
        "deadline": deadline or None,
        "round_seconds": spread(seconds),
        "idle_share": statistics.mean(record.idle_share for record in records),
        "sat_out": statistics.mean(len(record.sat_out or {}) for record in records),
        "steps_share": sum(client.steps for client in clients) / wanted,
        "all_seconds": sum(r.setup_seconds_simulated for r in records) + sum(seconds),
        "metric": run.result["metric"],
        "after": run.after[run.result["metric"]],
    }


def compare(
    deadline: str,
    rounds: int,
    examples: int,
    seed: int,
    roomy: bool,
    changes: Mapping[str, Any] = NO_CHANGES,
) -> list[dict[str, Any]]:
    """Return a row for every method, without a deadline and with it."""
    memory = dict.fromkeys(MEMORY, "1GB") if roomy else MEMORY
    with tempfile.TemporaryDirectory() as folder:
        fleet = Path(folder) / "fleet.toml"
        fleet.write_text(FLEET.format(**memory))
        return [
            one_run(method, limit, fleet, rounds, examples, seed, changes)
            for method in METHODS
            for limit in ("", deadline)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deadline", default="10s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=640, help="of all clients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--roomy", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = compare(given.deadline, given.rounds, given.examples, given.seed, given.roomy)
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        seconds = row["round_seconds"]
        print(
            f"{row['method']:<8} deadline {row['deadline'] or 'none':<5} "
            f"round {seconds['median']:.1f} s ({seconds['min']:.1f} to {seconds['max']:.1f})  "
            f"idle {row['idle_share']:.2f}  sat out {row['sat_out']:.1f}  "
            f"steps {row['steps_share']:.2f}  all {row['all_seconds']:.0f} s  "
            f"{row['metric']} {row['after'] or 0.0:.3f}"
        )


if __name__ == "__main__":
    main()
