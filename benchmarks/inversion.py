"""What an update tells of the words behind it: tokens of a classifier's batch, recovered.

    .venv/bin/python -m benchmarks.inversion              # minutes; needs LEFF_DATA and LEFF_MODELS
    .venv/bin/python -m benchmarks.inversion --examples 1 16 --steps 1 8 --seeds 1 --json

The attacker has what the server sees: the job, and one client's update of the first round.  It asks
of a token whether the client's texts have it.  A linear layer's gradient is a sum of outer products
with what went into it, so its rows span those inputs (Petrov et al. 2024, DAGER).  The attacker
sends each token through the client's model, in each of `PLACES` places of a text of that token
alone, and sees how near it comes to that span; or, where the change has full rank, how much of the
change lies along it.  It takes the linear layer that trains and comes first.  (Tables of embeddings
would tell more, but train in no method.)

A row a method and what is seen: the area under the ROC curve of the batch's tokens against
`--others` tokens of the task's other texts, .5 for a guess and 1 for certainty, and `found`, the
share of the batch's tokens among as many with the highest scores; `chance` is that share for a
guess.  Seen is the exact gradient of the batch; the update,
after `--steps` steps of AdamW; the mean of a tensor over those that trained it; or the update with
noise on the device.  LEFF's rows are by the layer that trains, from 0.

A token is found, not a text: the order of words is left to stronger attacks.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.attack import (
    CPU,
    METHODS,
    Changes,
    FirstRound,
    first_round,
    views_of,
)
from benchmarks.fidelity import GLUE, RATES, setting
from leff.client.model import prepared, trained_layers
from leff.models.losses import mean_loss
from leff.privacy.noise import Noise, seeded_key
from leff.tasks.encode import Example, collate
from leff.wire.messages import Job

PLACES = 24
FULL = 0.9  # share of the width from which a change counts as of full rank
FLAT = 1e-5  # singular values below this share of the largest are none


def attacked(
    method: str, others: int, noise: float, options: Mapping[str, Any], folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield a row for each client of a first round and what is seen of it."""
    first = first_round(options, folder)
    source, rng = Noise(seeded_key(options["seed"])), np.random.default_rng(options["seed"])
    special = set(first.tokenizer.all_special_ids)
    tokens = {client: tokens_of(own) - special for client, own in first.examples.items()}
    everything = set[int]().union(*tokens.values())
    for job in first.jobs:
        own = sorted(tokens[job.client])
        rest = sorted(everything - tokens[job.client])
        tried = own + rng.permutation(rest)[:others].tolist()
        labels = [1] * len(own) + [0] * (len(tried) - len(own))
        views = {
            "gradient": gradient_of(first, job),
            **views_of(first, job, noise, source),
        }
        layers = trained_layers(job).values()
        for view, scores in scored(job, first, tried, views).items():
            best = np.argsort(scores)[::-1][: len(own)]
            yield {
                "method": f"{method}, layer {min(layers)}" if layers else method,
                "seen": view,
                "area": float(roc_auc_score(labels, scores)),
                "found": float(np.mean(best < len(own))),
                "chance": len(own) / len(tried),
            }


def tokens_of(examples: Sequence[Example]) -> set[int]:
    return {int(token) for example in examples for token in example.input_ids}


def gradient_of(first: FirstRound, job: Job) -> dict[str, torch.Tensor]:
    """Return minus the gradient of the mean loss of a client's examples at the start."""
    model, trained = prepared(job, first.fetch, CPU)
    model.eval()
    loss = mean_loss(model, collate(first.examples[job.client], first.tokenizer.pad_token_id))
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {
        name: -gradient
        for name, gradient in zip(trained, gradients, strict=True)
        if gradient is not None
    }


def scored(
    job: Job, first: FirstRound, tokens: Sequence[int], views: Mapping[str, Changes]
) -> dict[str, list[float]]:
    """Return each token's score under each view: the higher, the surer that the batch has it."""
    model, trained = prepared(job, first.fetch, CPU)
    model.eval()
    names = {id(parameter): name for name, parameter in trained.items()}
    linear = {
        names[id(module.weight)]: module
        for module in model.modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) in names
    }
    found: dict[str, list[float]] = {}
    known: dict[tuple[str, ...], tuple[list[str], torch.Tensor]] = {}
    for view, changes in views.items():
        moved = {n: m for n, m in linear.items() if n in changes and changes[n].any()}
        if tuple(moved) not in known:
            known[tuple(moved)] = inputs_of(model, first.tokenizer, tokens, moved)
        firsts, inputs = known[tuple(moved)]
        found[view] = near(inputs, [by_rows(moved[n], changes[n]) for n in firsts])
    return found


def by_rows(module: nn.Module, change: torch.Tensor) -> torch.Tensor:
    """Return a linear module's change, (outputs, inputs)."""
    return change.T if isinstance(module, Conv1D) else change


def near(inputs: torch.Tensor, changes: Sequence[torch.Tensor]) -> list[float]:
    """Return how near each token's inputs, (tokens, places, width), are to what changed layers.

    It is minus the distance to the span of the changes' rows, as a share of the input's own; or, if
    the changes have full rank, their length along the input.  The best place counts.
    """
    inputs, rows = inputs.double(), torch.cat(list(changes)).double()
    centred = inputs - inputs.mean(dim=(0, 1))
    _, values, span = torch.linalg.svd(rows, full_matrices=False)
    span = span[values > FLAT * values[0]]
    if len(span) < FULL * rows.shape[1]:
        away = inputs - inputs @ span.T @ span
        return (-away.norm(dim=-1) / centred.norm(dim=-1)).amax(dim=1).tolist()
    along = (centred / centred.norm(dim=-1, keepdim=True)) @ rows.T
    return along.norm(dim=-1).amax(dim=1).tolist()


@torch.no_grad()
def inputs_of(
    model: nn.Module, tokenizer: Any, tokens: Sequence[int], modules: Mapping[str, nn.Module]
) -> tuple[list[str], torch.Tensor]:
    """Return the layers that have the first input, and it, (tokens, places, width).

    Each token's text is the token `PLACES` times.
    """
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, given, _output: seen.__setitem__(name, given[0])

    around = tokenizer("a")["input_ids"]
    one = len(around) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    head, end = around[: one // 2], around[len(around) - one // 2 :]
    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    parts: list[torch.Tensor] = []
    firsts: list[str] = []
    for start in range(0, len(tokens), 64):
        seen.clear()
        ids = [[*head, *[token] * PLACES, *end] for token in tokens[start : start + 64]]
        model(input_ids=torch.tensor(ids))
        into = next(iter(seen.values()))
        firsts = [name for name, other in seen.items() if other is into]
        parts.append(into[:, len(head) : len(head) + PLACES])
    for hook in hooks:
        hook.remove()
    return firsts, torch.cat(parts)


def rows_of(arguments: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Any]]:
    for examples in arguments.examples:
        for steps in arguments.steps:
            for method in arguments.methods:
                found: dict[tuple[str, str], list[dict[str, Any]]] = {}
                for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                    options = {
                        **GLUE,
                        **METHODS[method],
                        "data.task": arguments.task,
                        "clients.count": arguments.clients,
                        "clients.layers": [1],
                        "clients.partition": "iid",
                        "clients.min_examples": 1,
                        "data.train_examples": examples * arguments.clients,
                        "training.learning_rate": RATES["glue"][method.partition("-")[0]],
                        "training.batch_size": examples,
                        "training.epochs": steps,
                        "evaluation.examples": 16,
                        "seed": seed,
                        **dict(arguments.set),
                    }
                    folder = scratch / f"{method}-{examples}-{steps}-{seed}"
                    for row in attacked(
                        method,
                        arguments.clients,
                        arguments.others,
                        arguments.noise,
                        options,
                        folder,
                    ):
                        found.setdefault((row["method"], row["seen"]), []).append(row)
                for (named, seen), own in sorted(found.items()):
                    areas = [row["area"] for row in own]
                    yield {
                        "method": named,
                        "examples": examples,
                        "steps": steps,
                        "seen": seen,
                        "area": statistics.mean(areas),
                        "area_deviation": statistics.stdev(areas) if len(areas) > 1 else None,
                        "found": statistics.mean(row["found"] for row in own),
                        "chance": statistics.mean(row["chance"] for row in own),
                        "attacks": len(own),
                    }


def show(row: Mapping[str, Any]) -> str:
    spread = "" if row["area_deviation"] is None else f" ± {row['area_deviation']:.2f}"
    return (
        f"{row['examples']:>3} examples, {row['steps']:>2} steps  {row['method']:<22} "
        f"{row['seen']:<9} area {row['area']:.2f}{spread}  found {row['found']:.2f} "
        f"(chance {row['chance']:.2f}, {row['attacks']} clients)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--task", default="sst2")
    add("--examples", type=int, nargs="+", default=[1, 8], help="of each client, in a batch")
    add("--steps", type=int, nargs="+", default=[1, 8], help="of AdamW, all with that batch")
    add("--methods", nargs="+", choices=METHODS, default=["fedavg", "fedlora", "leff"])
    add("--others", type=int, default=300)
    add("--clients", type=int, default=8)
    add("--seeds", type=int, default=2)
    add("--seed", type=int, default=200, help="the first")
    add("--noise", type=float, default=0.1, help="in units of the clip")
    add("--set", nargs="+", type=setting, default=[], metavar="KEY=VALUE")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in rows_of(arguments, Path(scratch)):
            rows.append(row)
            if not arguments.json:
                print(show(row), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
