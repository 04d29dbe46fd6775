"""Error against bytes and operations: what each context costs a client, measured on a real model.

    .venv/bin/python -m benchmarks.frontier --model all-MiniLM-L6-v2 --task sst2 --proxy wnli
    .venv/bin/python -m benchmarks.frontier --model sample --layers 4 --json --picture frontier.png

A row for every context (`candidates.settings`), for clients that train `--layers`.  `state_bytes`:
weights, gradients and optimizer where a client holds most.  `step_flops`: of a training step, the
mean over the block's places.  `error`: the client's last hidden state against the full model's on
held-out proxy data, relative, the mean over the places.  `server_seconds` of processor time to
train the students of all places from nothing, their number times the mean of one.  A star
(`front`) marks what nothing beats in both bytes and error.

With `--keep FILE` what was measured stays there, and is not measured again.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.frontier_picture import draw_frontier, front
from leff.capacity.candidates import Candidate, candidates, measure
from leff.capacity.sizes import model_sizes
from leff.files import read_json, write_json
from leff.methods.registry import spec_of
from leff.methods.setup import places
from leff.methods.stand_ins import Bank, Distillation
from leff.runs.budgets import setup_of
from leff.runs.config import RunConfig, parse_config
from leff.runs.folder import config_digest
from leff.runs.sources import load_start, task_of
from leff.tasks.proxy import proxy_batches, proxy_texts


class TimedBank(Bank):
    """A bank that counts the processor's seconds in which it makes stand-ins."""

    seconds = 0.0

    def make(self, *arguments: Any) -> Any:
        started = time.process_time()
        made = super().make(*arguments)
        self.seconds += time.process_time() - started
        return made


def students(found: Sequence[Candidate], total: int) -> set[Any]:
    """Return the trained units behind these candidates, whatever their bits."""
    return {
        (unit.start, unit.stop)
        for candidate in found
        for block in places(candidate.layers, total)
        for span in candidate.setting.context.spans(block, total)
        for unit in span.units()
        if unit.trained
    }


def rows(config: RunConfig, layers: int, keep: Path | None) -> list[dict[str, Any]]:
    """Return a row for every context, from the file `keep` if they are there."""
    kept = read_json(keep, "remove it") if keep else None
    key, kept = f"{config_digest(config)[:16]}-{layers}", kept or {}
    if key not in kept:
        kept[key] = _measured(config, layers)
        if keep:
            write_json(keep, kept)
    return kept[key]


def _measured(config: RunConfig, layers: int) -> list[dict[str, Any]]:
    task, given = task_of(config), config.context
    model, tokenizer = load_start(config, task)
    texts = proxy_texts(config.proxy.task, examples=config.proxy.examples, seed=config.seed)
    length = config.data.max_length
    size = config.proxy.batch_size
    batches = proxy_batches(texts, tokenizer, task.kind, batch_size=size, max_length=length)
    sizes = model_sizes(model, task.kind)
    total = len(sizes.layers)
    asked = setup_of(config, spec_of("leff"))
    found = candidates(sizes, asked, [layers])
    bank = TimedBank(Distillation(given.steps, given.learning_rate, given.attention_weight))
    errors = measure(model, bank, found, batches, {})
    each = bank.seconds / max(len(students(found, total)), 1)
    measured = [
        {
            "context": str(candidate.setting),
            "layers": candidate.layers,
            "state_bytes": candidate.state_bytes,
            "step_flops": candidate.step_flops,
            "error": errors[candidate],
            "server_seconds": each * len(students([candidate], total)),
        }
        for candidate in found
    ]
    best = front([(row["state_bytes"], row["error"]) for row in measured])
    return [{**row, "front": i in best} for i, row in enumerate(measured)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sample")
    parser.add_argument("--task", default="sample")
    parser.add_argument("--proxy", default="sample")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--layers", type=int, default=1, help="layers that a client trains")
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--keep", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    config = parse_config(
        {
            "model": {"name": given.model},
            "data": {"task": given.task, "max_length": given.max_length},
            "proxy": {"task": given.proxy},
            "context": {"steps": given.steps, "learning_rate": given.learning_rate},
        }
    )
    measured = rows(config, given.layers, given.keep)
    if given.picture:
        draw_frontier(measured, given.model, given.picture)
    if given.json:
        print(json.dumps(measured, indent=1))
        return
    print(f"{'context':<28}{'state MB':>10}{'GFLOP':>8}{'error':>9}{'server s':>9}")
    for row in sorted(measured, key=lambda row: row["error"]):
        print(
            f"{row['context']:<28}{row['state_bytes'] / 1e6:>10.2f}"
            f"{row['step_flops'] / 1e9:>8.2f}{row['error']:>9.4f}{row['server_seconds']:>9.1f}"
            f"{'  *' if row['front'] else ''}"
        )


if __name__ == "__main__":
    main()
