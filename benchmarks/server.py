"""Server time: the bank of stand-ins against distilling for each client apart, at equal error.

    .venv/bin/python -m benchmarks.server            # about 8 minutes
    .venv/bin/python -m benchmarks.server --json

A model of 12 layers (those of the built-in decoder, some twice; trained weights, width 96), N
clients of one layer each, blocks drawn evenly, r = 0.5, proxy text of the built-in task.  `bank`
is one round of `stand_ins.Bank`: a student for each unit, shared by all spans and clients.
`per_client` distils for one client after another the segments before and after its block, each
trained jointly as the paper describes, from the same initial students.  Both stop a student at
its target error; the bank's units have a lower one, since errors add up over a span's units.
`error` is the larger of the two sides' mean relative errors ‖H_s - H_t‖ / ‖H_t‖ over the clients'
spans that train, on a batch that none trains on; `errors` has both sides'.  One torch thread each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.processes import spread
from leff.methods.importance import draw_block, uniforms
from leff.methods.stand_ins import Bank, Distillation, Span, make_context
from leff.models import blocks, build_model, full_state
from leff.runs.config import load_config
from leff.runs.sources import load_start, task_of
from leff.tasks.proxy import proxy_batches, proxy_texts

LAYERS = (0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7)
SPAN_TARGET, UNIT_TARGET = 0.2, 0.11
SETTINGS: dict[str, Any] = {"steps": 400, "learning_rate": 3e-3, "attention_weight": 0.1}


def twelve_layers() -> tuple[Any, Any]:
    """Return the model and its proxy batches."""
    config = load_config(None)
    model, tokenizer = load_start(config, task_of(config))
    state = full_state(model)
    path = "transformer.h."
    deep = {name: tensor for name, tensor in state.items() if not name.startswith(path)}
    for place, source in enumerate(LAYERS):
        prefix = f"{path}{source}."
        deep |= {
            f"{path}{place}.{name.removeprefix(prefix)}": tensor.clone()
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
    texts = proxy_texts("sample", examples=256, seed=0)
    batches = proxy_batches(texts, tokenizer, "generation", batch_size=16, max_length=96)
    return build_model(model.config, "generation", LAYERS, deep), batches


def client_spans(clients: int, seed: int) -> list[tuple[Span, ...]]:
    """Return every client's spans, around a block of one layer."""
    context = make_context("distil", rate=0.5)
    chances = uniforms(clients, np.random.default_rng(seed), stratified=True)
    even = np.full(len(LAYERS), 1 / len(LAYERS))
    firsts = [draw_block(even, chance) for chance in chances]
    return [context.spans(range(first, first + 1), len(LAYERS)) for first in firsts]


def bank(model: Any, batches: Any, spans: Sequence[tuple[Span, ...]]) -> tuple[float, float]:
    """Return the seconds that the bank takes for all clients, and the mean error of a span."""
    started = time.perf_counter()
    wanted = sorted({span for own in spans for span in own})
    made = Bank(Distillation(**SETTINGS, target_error=UNIT_TARGET)).make(model, wanted, batches, {})
    seconds = time.perf_counter() - started
    return seconds, _mean_error(
        [made[span].error for own in spans for span in own if _trains(span)]
    )


def per_client(model: Any, batches: Any, spans: Sequence[tuple[Span, ...]]) -> tuple[float, float]:
    """Return the same for a distillation of its own for each client."""
    started, errors = time.perf_counter(), []
    apart = Distillation(**SETTINGS, target_error=SPAN_TARGET, whole=True)
    for own in spans:
        made = Bank(apart).make(model, own, batches, {})
        errors += [made[span].error for span in own if _trains(span)]
    return time.perf_counter() - started, _mean_error(errors)


def _trains(span: Span) -> bool:
    return span.layers < span.stop - span.start


def _mean_error(errors: Sequence[float]) -> float:
    return statistics.mean(errors)


def compare(sizes: Sequence[int], repeats: int) -> dict[str, Any]:
    """Return seconds and errors of both sides by number of clients."""
    torch.set_num_threads(1)
    model, batches = twelve_layers()
    assert len(blocks(model)) == len(LAYERS)
    sides = {"bank": bank, "per_client": per_client}
    seconds: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    errors: dict[str, dict[str, float]] = {side: {} for side in sides}
    for repeat in range(repeats):
        for size in sizes:
            spans = client_spans(size, repeat)
            for side, measure in sides.items():
                took, error = measure(model, batches, spans)
                seconds[side].setdefault(str(size), []).append(took)
                errors[side][str(size)] = max(error, errors[side].get(str(size), 0.0))
    medians = {
        side: {size: statistics.median(values) for size, values in found.items()}
        for side, found in seconds.items()
    }
    ratios = {
        size: spread([a / b for a, b in zip(seconds["per_client"][size], values, strict=True)])
        for size, values in seconds["bank"].items()
    }
    return {
        "bank_seconds": medians["bank"],
        "per_client_seconds": medians["per_client"],
        "ratio": ratios,
        "error": max(error for found in errors.values() for error in found.values()),
        "errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 40])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = compare(arguments.clients, arguments.repeats)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for size, seconds in found["bank_seconds"].items():
        apart, ratio = found["per_client_seconds"][size], found["ratio"][size]
        print(
            f"{size:>4} clients  bank {seconds:.1f} s, error {found['errors']['bank'][size]:.3f}  "
            f"each client apart {apart:.1f} s, error {found['errors']['per_client'][size]:.3f}  "
            f"ratio {ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})"
        )


if __name__ == "__main__":
    main()
