"""What merges and bounds do against one hostile client of eight, and what they cost without one.

    .venv/bin/python -m benchmarks.robust              # about ten minutes on two cores
    .venv/bin/python -m benchmarks.robust --method leff --json

The built-in task with short runs.  The hostile client is the one with the most examples.  In every
round it sends what it started with, less ten times what its training changed.  `loss` is the full
model's on validation examples after the last round, as mean and deviation over the seeds.  The
bound `clip` is the median norm of the updates of the plain run with the same seed.  LEFF's clients
train four of the eight layers each, so that about four train each layer.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from leff.methods.method import RoundContext
from leff.models.hardware import pinned_threads
from leff.record import ClientRecord
from leff.round import Fleet, run_round
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.wire.messages import Capacity, Job, Update
from leff.wire.tensors import pack, unpack

FACTOR = -10
EVALUATED = 128  # validation examples
RULES: dict[str, dict[str, Any]] = {
    "mean": {},
    "clip": {},  # with the bound, see above
    "trimmed_mean": {"method.merge": "trimmed_mean"},
    "median": {"method.merge": "median"},
}
SHORT = {
    "clients.layers": [4],
    "context.name": "quantise",
}


class Hostile:
    """A fleet in which one client sends `FACTOR` times what it changed."""

    def __init__(self, fleet: Fleet, model: torch.nn.Module, client: int) -> None:
        self._fleet, self._model, self._client = fleet, model, client

    def clients(self) -> Sequence[int]:
        return self._fleet.clients()

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        return self._fleet.report(clients)

    def train(self, jobs: Sequence[Job]) -> Generator[Update]:
        start = dict(self._model.named_parameters())
        for update in self._fleet.train(jobs):
            if update.client == self._client and update.failure is None:
                changed = {
                    name: start[name].detach() + FACTOR * (tensor - start[name].detach())
                    for name, tensor in unpack(update.payload).items()
                }
                update = replace(update, payload=pack(changed))
            yield update


def short_run(options: Mapping[str, Any], hostile: bool) -> tuple[float, list[ClientRecord]]:
    """Do a run's rounds; return the loss after the last, and the clients of all rounds."""
    config = load_config(None, options)
    with tempfile.TemporaryDirectory() as folder, pinned_threads(config.engine.threads):
        run = prepare(config, RunFolder.new(Path(folder) / "run", config))
        fleet = run.clients.fleet
        if hostile:
            sizes = [len(rows) for rows in run.clients.split.indices]
            fleet = Hostile(fleet, run.model, sizes.index(max(sizes)))
        run.method.begin(run.model)
        clients: list[ClientRecord] = []
        for index in range(config.training.rounds):
            context = RoundContext(index, config.seed, run.config.training.local(index))
            clients += run_round(run.model, run.method, fleet, context, run.server).clients
        return run.evaluator.quick(run.model, EVALUATED)["loss"], clients


def measure(method: str, rounds: int, examples: int, seeds: int) -> list[dict[str, Any]]:
    """Return a row for each rule, without a hostile client and with one."""
    losses: dict[tuple[str, bool], list[float]] = {}
    clipped: dict[tuple[str, bool], list[float]] = {}
    for seed in range(seeds):
        base = {
            **SHORT,
            "seed": seed,
            "method.name": method,
            "training.rounds": rounds,
            "data.train_examples": examples,
        }
        bound = 0.0
        for rule, options in RULES.items():
            own = {**base, **options, "method.clip_norm": bound if rule == "clip" else 0.0}
            for hostile in (False, True):
                loss, clients = short_run(own, hostile)
                if rule == "mean" and not hostile:
                    bound = statistics.median(c.norm for c in clients if c.norm is not None)
                losses.setdefault((rule, hostile), []).append(loss)
                share = sum(bool(c.clipped) for c in clients) / len(clients)
                clipped.setdefault((rule, hostile), []).append(share)
    return [
        {
            "method": method,
            "rule": rule,
            "hostile": int(hostile),
            "loss": statistics.mean(found),
            "deviation": statistics.stdev(found) if seeds > 1 else 0.0,
            "losses": found,
            "clipped_share": statistics.mean(clipped[rule, hostile]),
        }
        for (rule, hostile), found in losses.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=["fedavg", "leff"], default="fedavg")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--examples", type=int, default=640, help="of all clients together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.method, arguments.rounds, arguments.examples, arguments.seeds)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{row['method']} {row['rule']:<12} {row['hostile']} hostile: loss {row['loss']:.4f} "
            f"± {row['deviation']:.4f}, {row['clipped_share']:.0%} of the updates clipped"
        )


if __name__ == "__main__":
    main()
