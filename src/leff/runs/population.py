"""The clients of a run: how they are reached, and what is known of them before the first round.

clients = simulated_population(config, task, rows, model, tokenizer, store, folder)
clients.fleet, clients.split, clients.digests
"""

import hashlib
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from leff.client.residuals import Residuals
from leff.engines.local import LocalFleet, worker_count
from leff.errors import DataError
from leff.methods.registry import spec_of
from leff.models import blocks
from leff.models.hardware import torch_device
from leff.round import Fleet
from leff.runs.budgets import check_deadline, client_devices, client_layers, client_reports
from leff.runs.levelling import is_levelled
from leff.runs.options import RunConfig
from leff.runs.privacy import run_noise
from leff.runs.shares import client_examples
from leff.runs.sources import text_form
from leff.tasks.columns import Table
from leff.tasks.encode import Example, encode
from leff.tasks.partition import Partition
from leff.tasks.task import Task
from leff.wire.messages import Device
from leff.wire.parts import PartStore

log = logging.getLogger("leff")


@dataclass(frozen=True)
class Population:
    """A run's clients.

    What only a simulation knows beforehand is empty for devices on a network: how central data was
    divided, each client's layers L_i, its device, and digests of data.
    """

    fleet: Fleet
    split: Partition | None = None
    layers: tuple[int, ...] = ()
    devices: tuple[Device, ...] = ()
    digests: dict[str, str] = field(default_factory=dict[str, str])


def simulated_population(
    config: RunConfig,
    task: Task,
    rows: tuple[Table, Partition],
    model: Any,
    tokenizer: Any,
    store: PartStore,
    folder: Path,
) -> Population:
    """Return clients that are simulated, with their shares of central `rows`.

    Raises DataError for a client without examples, ConfigError as `check_deadline`.
    """
    train, split = rows
    form, devices = text_form(config, task, tokenizer), client_devices(config.clients)
    layers = client_layers(config, spec_of(config.method.name), len(blocks(model)))

    def encoded(some: Table) -> list[Example]:
        return encode(some, tokenizer, task.kind, config.data.max_length, form)

    measuring = config.evaluation.where != "server"
    held_out = measuring or is_levelled(config, task.kind)
    share = config.clients.validation_share if held_out else 0.0
    examples, held = client_examples(train, split, task.kind, share, encoded)
    _check_examples(examples, held, measuring)
    _mention_added_tokens(examples, tokenizer)
    counts = [len(own) for own in examples]
    check_deadline(config, task.kind, model, counts)
    reports = client_reports(config.clients, layers, counts, [len(own) for own in held])
    if config.engine.name == "local":
        device = torch_device(config.engine.device)
        fleet = LocalFleet(
            examples,
            reports,
            store,
            device,
            worker_count(config.engine.workers, device, config.engine.threads),
            Residuals(folder / "residuals", config.engine.checkpoints),
            held,
            cache(lambda: run_noise(config, folder)),
        )
    else:
        from leff.runs.network import simulated_fleet

        fleet = simulated_fleet(config, task, rows, reports, model, tokenizer, store, folder, share)
    digests = {"split_digest": split.digest, "examples_digest": _digest([*examples, *held])}
    if devices:
        digests["fleet_digest"] = hashlib.sha256(repr(devices).encode()).hexdigest()
    return Population(fleet, split, layers, devices, digests)


def _check_examples(
    examples: Sequence[Sequence[Example]], held: Sequence[Sequence[Example]], measuring: bool
) -> None:
    few = [client for client, own in enumerate(examples) if not own]
    if few:
        raise DataError(
            f"the texts of client {few[0]} are too short to learn from; raise "
            "clients.min_examples, or use fewer clients"
        )
    if measuring and not any(held):
        raise DataError(
            "no client has two texts or more, so none can hold any out; let the server measure "
            "(evaluation.where = 'server')"
        )


def _mention_added_tokens(clients: Sequence[Sequence[Example]], tokenizer: Any) -> None:
    """Log how many examples hold tokens that were added to the tokenizer's vocabulary."""
    added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items() if not t.special}
    if not added:
        return
    own = [
        added.keys() & set(example.input_ids.tolist()) for client in clients for example in client
    ]
    used = sorted(set[int]().union(*own))
    if used:
        log.warning(
            "%d examples hold tokens added to the vocabulary (%s); embeddings stay frozen, so the "
            "start model must know them already",
            sum(map(bool, own)),
            ", ".join(added[token] for token in used[:4]),
        )


def _digest(clients: Sequence[Sequence[Example]]) -> str:
    """Return the SHA-256 of all clients' tokens and labels."""
    sha = hashlib.sha256()
    for example in itertools.chain.from_iterable(clients):
        sha.update(example.facts.encode())
        sha.update(example.input_ids.astype("<i4").tobytes())
    return sha.hexdigest()
