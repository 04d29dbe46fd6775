"""What merges and bounds do against one hostile client of eight, and what they cost without one.

    .venv/bin/python -m benchmarks.robust              # about ten minutes on two cores
    .venv/bin/python -m benchmarks.robust --method leff --json
    .venv/bin/python -m benchmarks.robust --cost --clients 8 40        # of the merge alone

The built-in task with short runs.  The hostile client is the one with the most examples.  In every
round it sends what it started with, less ten times what its training changed.  `loss` is the full
model's on validation examples after the last round, as mean and deviation over the seeds.  The
bound `clip` is the median norm of the updates of the plain run with the same seed.  LEFF's clients
train four of the eight layers each, so that about four train each layer.

`--cost` merges random updates of 100 MB into a model of that size, in four tensors.  `bytes` is how
far the process's peak is above what it held before, and `seconds` are the processor's.
"""

import argparse
import ctypes
import json
import statistics
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leff.methods.aggregate import Merge
from leff.methods.guard import Guard, MergeRule
from leff.methods.method import RoundContext
from leff.methods.robust import robust_means
from leff.methods.sums import add_up
from leff.models.hardware import pinned_threads
from leff.record import ClientRecord
from leff.round import Fleet, run_round
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.wire.messages import Capacity, Job, Update
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

ROBUST: tuple[MergeRule, ...] = ("trimmed_mean", "median")
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

    steady = True

    def __init__(self, fleet: Fleet, model: nn.Module, client: int) -> None:
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


def merge_cost(rule: MergeRule, clients: int, width: int = 2500, layers: int = 4) -> dict[str, Any]:
    """Return seconds and bytes of one merge, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_merge_cost, rule, clients, width, layers).result()


def _merge_cost(rule: MergeRule, clients: int, width: int, layers: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    cut = Guard(merge=rule).cut
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "updates")
        spool.open(dict.fromkeys(range(clients), ""))
        for client in range(clients):
            tensors = {n: torch.randn_like(p) for n, p in model.named_parameters()}
            spool.add(Update(0, client, (0,), 1, pack(tensors)))
        del tensors
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, started = _memory("VmRSS"), time.process_time()
        means = robust_means(spool.files(), cut) if rule in ROBUST else add_up(spool.accepted())
        Merge().apply(model, means)
        seconds = time.process_time() - started
    return {
        "rule": rule,
        "clients": clients,
        "seconds": seconds,
        "bytes": _memory("VmHWM") - before,
    }


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=["fedavg", "leff"], default="fedavg")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--examples", type=int, default=640, help="of all clients together")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cost", action="store_true", help="seconds and memory of the merge")
    parser.add_argument("--clients", type=int, nargs="+", default=[8], help="for --cost")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.cost:
        rules: list[MergeRule] = ["mean", *ROBUST]
        costs = [merge_cost(rule, count) for count in arguments.clients for rule in rules]
        print(json.dumps(costs, indent=1))
        return
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
