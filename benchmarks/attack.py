"""What an update tells of the examples behind it: membership inference, on the built-in model.

    .venv/bin/python -m benchmarks.attack              # minutes
    .venv/bin/python -m benchmarks.attack --examples 8 32 128 --seeds 3 --json

The attacker has what the server sees: the job, and the update of one client in the first round.  It
asks of an example whether this client trained on it.  Its score is the cosine of what training
changed with the step that the example alone would ask for: minus the gradient of its loss at the
start, in the client's own model, over the tensors that train.  Members are the client's examples;
the others are the next client's, as many, of the same distribution (iid).

A row a method, what is seen, and the number of a client's examples: the area under the ROC curve,
.5 for a guess and 1 for certainty, and `hits`, the share of members that are found with one false
alarm in a hundred; means and deviations over clients and seeds.  Seen is the update; or the mean of
a tensor over those that trained it, as a merge shows it; or an update with noise on the device,
`--noise` times a clip at the median norm.  `leff-together` is LEFF as with secure sums: all blocks
of a round are around one place, so each mean is over many clients.

The models are our own.  A stronger attack may exist: a figure near .5 proves nothing.
"""

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.fidelity import RATES, SIDES
from leff.client.model import Fetch, prepared
from leff.client.upload import first_values
from leff.methods.method import RoundContext
from leff.models.losses import mean_loss
from leff.privacy.noise import Noise, seeded_key
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.tasks.encode import Example, collate
from leff.wire.messages import Job
from leff.wire.tensors import unpack

CPU = torch.device("cpu")
METHODS: dict[str, dict[str, Any]] = {
    **{method: SIDES[method] for method in ("fedavg", "fedlora", "leff")},
    "leff-together": {**SIDES["leff"], "method.together": True},
}
FALSE_ALARMS = 0.01
Changes = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class FirstRound:
    """What an attacker sees of a first round, and the truth: each client's examples."""

    jobs: Sequence[Job]
    fetch: Fetch
    tokenizer: Any
    examples: Mapping[int, Sequence[Example]]
    seen: Mapping[int, Changes]


def first_round(options: Mapping[str, Any], folder: Path) -> FirstRound:
    """Plan and train the first round of a run."""
    config = load_config(None, {**options, "evaluation.gap_clients": 0, "engine.workers": 1})
    run = prepare(config, RunFolder.new(folder, config))
    fleet: Any = run.clients.fleet
    run.method.begin(run.model)
    context = RoundContext(0, config.seed, config.training.local(0))
    jobs = run.method.plan(run.model, context, fleet.report(fleet.clients())).jobs
    fetch = run.server.store.get
    starts = {job.client: first_values(job, fetch) for job in jobs}
    seen = {
        update.client: {n: t - starts[update.client][n] for n, t in unpack(update.payload).items()}
        for update in fleet.train(jobs)
    }
    examples = {job.client: fleet._examples[job.client] for job in jobs}
    return FirstRound(jobs, fetch, run.tokenizer, examples, seen)


def views_of(first: FirstRound, job: Job, noise: float, source: Noise) -> dict[str, Changes]:
    """Return what is seen of a client: its update, a mean over all, or its update with noise."""
    own = first.seen[job.client]
    norms = {client: norm_of(changes) for client, changes in first.seen.items()}
    clip = statistics.median(norms.values())
    return {
        "update": own,
        "mean": {name: mean_of(first.seen, name) for name in own},
        f"noise {noise:g}": noisy(own, norms[job.client], clip, noise, source, job),
    }


def attacked(
    method: str, examples: int, clients: int, seed: int, noise: float, folder: Path
) -> Iterator[tuple[str, float, float]]:
    """Yield what was seen, the area, and the hits, for each client of a first round."""
    first = first_round(
        {
            **METHODS[method],
            "clients.count": clients,
            "clients.layers": [1],
            "clients.partition": "iid",
            "data.train_examples": examples * clients,
            "training.learning_rate": RATES["sample"][method.removesuffix("-together")],
            "training.batch_size": min(16, examples),
            "seed": seed,
        },
        folder,
    )
    source, pad = Noise(seeded_key(seed)), first.tokenizer.pad_token_id
    for job in first.jobs:
        own, others = first.examples[job.client], first.examples[(job.client + 1) % clients]
        count = min(len(own), len(others), 64)
        tried = [*own[:count], *others[:count]]
        views = views_of(first, job, noise, source)
        for view, scores in scored(job, first.fetch, tried, pad, views).items():
            members = [1] * count + [0] * count
            yield view, roc_auc_score(members, scores), hits_of(members, scores)


def norm_of(changes: Changes) -> float:
    return math.sqrt(sum(float(change.double().square().sum()) for change in changes.values()))


def mean_of(seen: Mapping[int, Changes], name: str) -> torch.Tensor:
    """Return the mean change of a tensor over the clients that trained it."""
    own = [changes[name] for changes in seen.values() if name in changes]
    return torch.stack(own).mean(0)


def noisy(
    changes: Changes, norm: float, clip: float, noise: float, source: Noise, job: Job
) -> dict[str, torch.Tensor]:
    """Return changes as a device sends them that adds noise."""
    factor = min(1.0, clip / norm)
    return {
        name: change * factor
        + torch.from_numpy(source.normal(change.numel(), job.client, name))
        .view(change.shape)
        .float()
        * (noise * clip)
        for name, change in changes.items()
    }


def scored(
    job: Job, fetch: Any, tried: Sequence[Example], pad: int, views: Mapping[str, Changes]
) -> dict[str, list[float]]:
    """Return each example's score under each view."""
    model, trained = prepared(job, fetch, CPU)
    model.eval()
    scores: dict[str, list[float]] = {view: [] for view in views}
    for example in tried:
        loss = mean_loss(model, collate([example], pad))
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        step = {
            name: -gradient
            for name, gradient in zip(trained, gradients, strict=True)
            if gradient is not None
        }
        for view, changes in views.items():
            product = sum(float((step[name] * changes[name]).sum()) for name in step)
            scores[view].append(product / (norm_of(step) * norm_of(changes) + 1e-30))
    return scores


def hits_of(members: Sequence[int], scores: Sequence[float]) -> float:
    """Return the share of members that are found at `FALSE_ALARMS`."""
    alarms, hits, _ = roc_curve(members, scores)
    return float(np.max(hits[alarms <= FALSE_ALARMS], initial=0.0))


def rows_of(arguments: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    rows = []
    for examples in arguments.examples:
        for method in arguments.methods:
            found: dict[str, list[tuple[float, float]]] = {}
            for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                folder = scratch / f"{method}-{examples}-{seed}"
                given = (method, examples, arguments.clients, seed, arguments.noise, folder)
                for view, area, hits in attacked(*given):
                    found.setdefault(view, []).append((area, hits))
            for view, own in found.items():
                areas, hits = zip(*own, strict=True)
                rows.append(
                    {
                        "method": method,
                        "examples": examples,
                        "seen": view,
                        "area": statistics.mean(areas),
                        "area_deviation": statistics.stdev(areas),
                        "hits": statistics.mean(hits),
                        "attacks": len(areas),
                    }
                )
    return rows


def show(row: Mapping[str, Any]) -> str:
    return (
        f"{row['examples']:>4} examples  {row['method']:<13} {row['seen']:<9} "
        f"area {row['area']:.3f} ± {row['area_deviation']:.3f}  hits {row['hits']:.2f}  "
        f"({row['attacks']} clients)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--examples", type=int, nargs="+", default=[8, 32, 128], help="of each client")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--clients", type=int, default=8)
    add("--seeds", type=int, default=3)
    add("--seed", type=int, default=200, help="the first")
    add("--noise", type=float, default=0.1, help="in units of the clip")
    add("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = rows_of(arguments, Path(scratch))
    print(json.dumps(rows, indent=1) if arguments.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
