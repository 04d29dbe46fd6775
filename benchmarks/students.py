"""How good distilled stand-ins get with the server's time: error against steps and seconds.

    .venv/bin/python -m benchmarks.students --model all-MiniLM-L6-v2 --task sst2 --proxy wnli --json
    .venv/bin/python -m benchmarks.students --steps 100 500 --rates 0.25 0.5 --attention-weight 0

A row for each rate r and number of steps.  One layer trains on a client; the others are students,
which begin anew.  `error` is that of a client's last hidden state against the full model's, on the
held-out batch of the proxy data, relative: the mean over the places of the block, and the `worst`.
`server_seconds` are the processor's, for the students of all places together.  For comparison
there are rows for all layers in 8 and in 4 bits (NF4), which take no training.
"""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import torch

from leff.methods.setup import places
from leff.methods.stand_ins import Bank, Context, Distillation, block_errors, make_context
from leff.models import blocks
from leff.runs.config import parse_config
from leff.runs.sources import load_start, task_of
from leff.tasks.proxy import proxy_batches, proxy_texts


def rows(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure each rate and number of steps, and yield a row for each."""
    config = parse_config(
        {
            "model": {"name": given.model},
            "data": {"task": given.task, "max_length": given.max_length},
            "proxy": {"task": given.proxy, "examples": given.examples},
        }
    )
    task = task_of(config)
    model, tokenizer = load_start(config, task)
    texts = proxy_texts(given.proxy, examples=given.examples, seed=config.seed)
    size, length = given.batch_size, given.max_length
    batches = proxy_batches(texts, tokenizer, task.kind, batch_size=size, max_length=length)
    for bits in (8, 4):
        context = make_context("quantise", bits=bits)
        yield {"context": f"all layers, {bits} bits", **errors(model, context, batches, given)}
    for rate in given.rates:
        for steps in given.steps:
            context = make_context("distil", rate=rate)
            measured = errors(model, context, batches, given, steps)
            yield {"context": f"distil {rate:g}", "steps": steps, **measured}


def errors(
    model: torch.nn.Module,
    context: Context,
    batches: list[Any],
    given: argparse.Namespace,
    steps: int = 0,
) -> dict[str, Any]:
    """Make a context's stand-ins, and return their errors and the seconds that they took."""
    total = len(blocks(model))
    drawn = places(1, total)
    spans = sorted({span for block in drawn for span in context.spans(block, total)})
    settings = Distillation(
        steps,
        given.learning_rate,
        given.attention_weight,
        whole=given.whole,
        batch_size=given.step_texts,
    )
    started = time.process_time()
    made = Bank(settings).make(model, spans, batches, decided={})
    seconds = time.process_time() - started
    found = list(block_errors(model, context, made, drawn, batches[0]).values())
    return {
        "error": sum(found) / len(found),
        "worst": max(found),
        "server_seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="sample")
    add("--task", default="sample")
    add("--proxy", default="sample")
    add("--examples", type=int, default=256, help="texts of the proxy data")
    add("--batch-size", type=int, default=16)
    add("--max-length", type=int, default=64)
    add("--rates", type=float, nargs="+", default=[0.25, 0.5])
    add("--steps", type=int, nargs="+", default=[100, 500, 2000])
    add("--step-texts", type=int, default=16, help="texts of a distillation step, at most")
    add("--learning-rate", type=float, default=1e-3)
    add("--attention-weight", type=float, default=0.1)
    add("--whole", action="store_true", help="train the layers of a span together")
    add("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for row in rows(given):
        found.append(row)
        if not given.json:
            steps = f"{row['steps']} steps" if "steps" in row else ""
            print(
                f"{row['context']:<20}{steps:<12}error {row['error']:.3f}, worst "
                f"{row['worst']:.3f}, {row['server_seconds']:.1f} s",
                flush=True,
            )
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
