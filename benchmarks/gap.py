"""The plug-in gap: what a block learns inside a stand-in, and what is left of it in the full model.

    .venv/bin/python -m benchmarks.gap --task e2e                    # the 260K Llama, 2 minutes
    .venv/bin/python -m benchmarks.gap --task sst2 --seeds 3 --json  # MiniLM-L6

One client trains one block (by default the middle layer) and the tail, alone, for an epoch, in
each context from the same start on the same examples in the same order.  A row per context, means
over the seeds, which change examples, order, proxy texts and a new head:

`context_error` of the client's last hidden state against the full model's on proxy data;
`gradient_error` Δ² at the start (`leff.runs.gap`); `client_bytes` of training state as measured;
`step_flops` for this block, at full length; `server_seconds` to make the stand-ins from nothing;
and mean losses (nats) on validation examples: `stand_in_before` and `stand_in_after` in the
client's model, `full_before` and `full_after` in the full one, `gap` = full_after - stand_in_after.
What counts is `full_after`: a block that learns nothing has no gap either.  `--epochs 0.5` tells
what a device that is short of time gets by fewer steps in a truer context.

Settings of the tasks are those of `benchmarks.fidelity`; the rate is 1e-3, of GLUE's tasks 1e-4.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.fidelity import GLUE, TASKS
from leff.capacity.candidates import Setting
from leff.capacity.job_cost import step_flops
from leff.capacity.sizes import model_sizes
from leff.client import train as client
from leff.methods.jobs import JobWriter
from leff.methods.method import RoundContext
from leff.methods.setup import job_layout
from leff.methods.stand_ins import Bank, Distillation, Span, StandIn, block_errors
from leff.models import blocks
from leff.runs.config import load_config
from leff.runs.gap import gradient_error, plug_in_gap
from leff.runs.options import RunConfig
from leff.runs.sources import load_start, task_of
from leff.tasks.encode import Example, encode
from leff.tasks.proxy import proxy_batches, proxy_texts
from leff.tasks.task import draw_rows
from leff.wire.messages import Job, Segment
from leff.wire.parts import PartStore

CONTEXTS = {
    "exact": Setting("quantise"),
    "8-bit": Setting("quantise", bits=8),
    "4-bit": Setting("quantise", bits=4),
    "8-bit+distil": Setting("quantise", 0.5, 8, suffix="distil"),
    "distil": Setting("distil", 0.5),
    "drop": Setting("drop", 0.5),
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Start:
    """What all contexts of one seed share."""

    config: RunConfig
    kind: str
    model: Any
    pad_id: int
    examples: Sequence[Example]
    validation: Sequence[Example]
    proxy: Sequence[Mapping[str, torch.Tensor]]

    @classmethod
    def of(cls, config: RunConfig) -> "Start":
        task, seed, length = task_of(config), config.seed, config.data.max_length
        model, tokenizer = load_start(config, task)
        texts = proxy_texts(config.proxy.task, examples=config.proxy.examples, seed=seed)
        size = config.proxy.batch_size
        proxy = proxy_batches(texts, tokenizer, task.kind, batch_size=size, max_length=length)
        rows = {
            "train": draw_rows(task.train, config.data.train_examples, seed, "train"),
            "gap": draw_rows(task.validation, config.evaluation.gap_examples, seed, "gap"),
        }
        encoded = {name: encode(own, tokenizer, task.kind, length) for name, own in rows.items()}
        pad_id = tokenizer.pad_token_id
        return cls(config, task.kind, model, pad_id, encoded["train"], encoded["gap"], proxy)


def write_job(
    start: Start, store: PartStore, made: Mapping[Span, StandIn], block: Sequence[int]
) -> Job:
    """Return the job of a client that trains `block` among these stand-ins."""
    writer = JobWriter(store, start.kind, start.pad_id, start.config.context.embedding_bits)
    pieces = {
        span: Segment(span.sources, tuple(store.put(t) for t in own.tensors), bits=span.bits)
        for span, own in made.items()
    } | {Span(block[0], block[-1] + 1, len(block)): writer.block(start.model, block)}
    segments = tuple(pieces[span] for span in sorted(pieces))
    round_context = RoundContext(0, start.config.seed, start.config.training.local(0))
    return writer.jobs(writer.frame(start.model), round_context, {0: segments})[0]


def measure(start: Start, setting: Setting, block: range, store: PartStore) -> dict[str, float]:
    """Return one context's figures."""
    model, config = start.model, start.config
    own, context = config.context, setting.context
    bank = Bank(Distillation(own.steps, own.learning_rate, own.attention_weight))
    started = time.process_time()
    made = bank.make(model, context.spans(block, len(blocks(model))), start.proxy, {})
    server_seconds = time.process_time() - started
    job = write_job(start, store, made, block)
    update = client.train(job, store.get, start.examples, CPU)
    measured = (store.get, start.validation, config.evaluation.batch_size, CPU)
    gap = plug_in_gap(model, job, update, *measured)
    return {
        "context_error": block_errors(model, context, made, [block], start.proxy[0])[block],
        "gradient_error": gradient_error(model, job, *measured),
        "client_bytes": update.state_bytes,
        "step_flops": step_flops(
            job_layout(job, own.embedding_bits),
            model_sizes(model, start.kind),
            job.training.step,
            config.data.max_length,
        ),
        "server_seconds": server_seconds,
        "client_seconds": update.train_seconds,
        **{key: value for key, value in asdict(gap).items() if isinstance(value, float)},
        "gap": gap.gap,
    }


def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each context."""
    shared = {
        **TASKS.get(given.task, GLUE),
        **({"model.name": given.model} if given.model else {}),
        "data.task": given.task,
        "data.train_examples": given.examples,
        "evaluation.gap_examples": given.validation,
        "context.steps": given.steps,
        "context.learning_rate": given.distil_rate,
        "training.learning_rate": given.learning_rate or (1e-3 if given.task in TASKS else 1e-4),
        "training.epochs": given.epochs,
        "training.calibrated": False,
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in given.contexts}
    for seed in range(given.seed, given.seed + given.seeds):
        start = Start.of(load_config(None, {**shared, "seed": seed}))
        first = len(blocks(start.model)) // 2 if given.block is None else given.block
        for name in given.contexts:
            with tempfile.TemporaryDirectory() as folder:
                block = range(first, first + given.layers)
                row = measure(start, CONTEXTS[name], block, PartStore(Path(folder)))
            print(f"seed {seed}, {name}: gap {row['gap']:.4f}", file=sys.stderr)
            found[name].append(row)
    return [
        {
            "context": name,
            "seeds": len(rows),
            **{key: statistics.mean(row[key] for row in rows) for key in rows[0]},
            "deviation": {
                key: statistics.stdev(row[key] for row in rows) if len(rows) > 1 else 0.0
                for key in rows[0]
            },
        }
        for name, rows in found.items()
    ]


def show(row: Mapping[str, Any]) -> str:
    def spread(key: str) -> str:
        return f"{row[key]:.3f} ± {row['deviation'][key]:.3f}"

    return (
        f"{row['context']:<13} error {row['context_error']:.3f}, gradient "
        f"{row['gradient_error']:.3f}  client {row['client_bytes'] / 1e6:.2f} MB, "
        f"{row['step_flops'] / 1e9:.2f} GFLOP a step  server {row['server_seconds']:.1f} s  "
        f"stand-in {row['stand_in_before']:.3f} to {spread('stand_in_after')}  "
        f"full {row['full_before']:.3f} to {spread('full_after')}  gap {spread('gap')}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", help="if not the task's own in benchmarks.fidelity")
    add("--task", default="e2e")
    add("--contexts", nargs="+", choices=CONTEXTS, default=list(CONTEXTS))
    add("--block", type=int, help="first layer that trains, from 0; by default the middle one")
    add("--layers", type=int, default=1, help="how many layers train")
    add("--examples", type=int, default=1500)
    add("--validation", type=int, default=200)
    add("--learning-rate", type=float)
    add("--epochs", type=float, default=1.0)
    add("--steps", type=int, default=60, help="of distillation")
    add("--distil-rate", type=float, default=3e-3)
    add("--seeds", type=int, default=1)
    add("--seed", type=int, default=0, help="the first")
    add("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = compare(given)
    print(json.dumps(rows, indent=1) if given.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
