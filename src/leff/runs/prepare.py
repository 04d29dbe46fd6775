"""Builds everything that a run needs from its configuration, and checks it before training.

federation = prepare(config, RunFolder.new(path, config))
federation.run(progress)
"""

import hashlib
import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from leff.client.residuals import Residuals
from leff.engines.local import LocalFleet, worker_count
from leff.errors import ConfigError, DataError
from leff.methods.jobs import JobWriter
from leff.methods.registry import spec_of
from leff.methods.stand_ins import Batch
from leff.models import blocks, full_state, positions
from leff.models.hardware import check_precision, torch_device
from leff.runs.budgets import (
    check_deadline,
    client_devices,
    client_layers,
    client_reports,
    make_limits,
    with_file_clients,
    with_fleet_count,
)
from leff.runs.build_method import build_method
from leff.runs.federation import Federation
from leff.runs.folder import RunFolder
from leff.runs.guard import make_guard
from leff.runs.on_devices import on_devices
from leff.runs.options import RunConfig
from leff.runs.rates import with_learning_rate
from leff.runs.shares import client_examples, divided
from leff.runs.sources import evaluator_for, load_start, task_of, text_form, with_prompt
from leff.runs.unused import unused_options
from leff.server import Server
from leff.tasks.columns import Table
from leff.tasks.encode import Example, encode
from leff.tasks.generation import MIN_PROMPT
from leff.tasks.proxy import proxy_batches, proxy_texts
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm
from leff.wire.parts import PartStore
from leff.wire.spool import Spool

log = logging.getLogger("leff")


def prepare(config: RunConfig, folder: RunFolder) -> Federation:
    """Load, check and build everything that a run needs; nothing is trained yet.

    Raises ConfigError, DataError or ModelError for what is missing, wrong or does not fit.
    """
    spec = spec_of(config.method.name)
    config = with_file_clients(with_fleet_count(config))
    device = torch_device(config.engine.device)
    check_precision(config.training.precision, device)
    task = task_of(config)
    config = with_prompt(config, task)
    config, train, split = divided(config, task)
    model, tokenizer = load_start(config, task)
    config, form = with_learning_rate(config, model.config, task.kind), text_form(config, task)
    _check_positions(config, model, task.kind)
    devices = client_devices(config.clients)
    layers = client_layers(config, spec, len(blocks(model)))

    def encoded(rows: Table) -> list[Example]:
        return encode(rows, tokenizer, task.kind, config.data.max_length, form)

    where = config.evaluation.where
    share = 0.0 if where == "server" else config.clients.validation_share
    examples, held = client_examples(train, split, task.kind, share, encoded)
    few = [client for client, own in enumerate(examples) if not own]
    if few:
        raise DataError(
            f"the texts of client {few[0]} are too short to learn from; raise "
            "clients.min_examples, or use fewer clients"
        )
    if share and not any(held):
        raise DataError(
            "no client has two texts or more, so none can hold any out; let the server measure "
            "(evaluation.where = 'server')"
        )
    _mention_added_tokens(examples, tokenizer)
    counts = [len(own) for own in examples]
    check_deadline(config, task.kind, model, counts)
    store = PartStore(folder.path / "parts")
    writer = JobWriter(store, task.kind, tokenizer.pad_token_id, upload=config.engine.upload)
    digests = {
        "examples_digest": _digest_examples([*examples, *held]),
        "evaluation_digest": _digest_rows(task),
        "model_digest": _digest_tensors([full_state(model)]),
    }
    if devices:
        digests["fleet_digest"] = hashlib.sha256(repr(devices).encode()).hexdigest()
    proxy = _proxy(config, tokenizer, task, device, form) if spec.trains_blocks else []
    if spec.trains_blocks:
        digests["proxy_digest"] = _digest_tensors(proxy)
    model = model.to(device)
    method = build_method(config, writer, proxy, model)
    guard = make_guard(config, method, layers, len(blocks(model)))
    if unused := unused_options(config):
        log.info("without effect in this run: %s", ", ".join(unused))
    workers = worker_count(config.engine.workers, device, config.engine.threads)
    return Federation(
        config=config,
        folder=folder,
        task=task,
        tokenizer=tokenizer,
        model=model,
        split=split,
        capacities=layers,
        method=method,
        fleet=LocalFleet(
            examples,
            client_reports(config.clients, layers, counts, [len(own) for own in held]),
            store,
            device,
            workers,
            Residuals(folder.path / "residuals", config.engine.checkpoints),
            held,
        ),
        server=Server(
            store, Spool(folder.path / "updates"), make_limits(config, task.kind, model), guard
        ),
        devices=devices,
        evaluator=None if where == "devices" else evaluator_for(config, task, tokenizer),
        on_devices=on_devices(config, task, writer),
        digests=digests,
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


def _check_positions(config: RunConfig, model: Any, kind: str) -> None:
    """Raise ConfigError for texts longer than the model has positions for."""
    most = positions(model.config)
    wanted = {"data.max_length": (config.data.max_length, most)}
    if kind == "generation" and config.evaluation.where != "devices":
        room = most - MIN_PROMPT
        wanted["evaluation.max_new_tokens"] = (config.evaluation.max_new_tokens, room)
    for key, (value, limit) in wanted.items():
        if value > limit:
            raise ConfigError(
                f"{key} must be at most {limit}, as {config.model.name} has {most} positions, "
                f"got {value}"
            )


def _digest_examples(clients: Sequence[Sequence[Example]]) -> str:
    """Return the SHA-256 of all clients' tokens and labels."""
    sha = hashlib.sha256()
    for example in itertools.chain.from_iterable(clients):
        sha.update(f"{len(example.input_ids)} {example.prompt_tokens} {example.label}\n".encode())
        sha.update(example.input_ids.astype("<i4").tobytes())
    return sha.hexdigest()


def _digest_tensors(states: Iterable[Mapping[str, torch.Tensor]]) -> str:
    """Return the SHA-256 of tensors with their names and shapes."""
    sha = hashlib.sha256()
    for state in states:
        for name, tensor in sorted(state.items()):
            sha.update(f"{name} {tuple(tensor.shape)}\n".encode())
            sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _digest_rows(task: Task) -> str:
    """Return the SHA-256 of the rows that the model is measured on."""
    sha = hashlib.sha256()
    for dataset in filter(None, (task.validation, task.test)):
        for row in dataset:
            sha.update(f"{row}\n".encode())
    return sha.hexdigest()


def _proxy(
    config: RunConfig, tokenizer: Any, task: Task, device: torch.device, form: TextForm
) -> list[Batch]:
    proxy = config.proxy
    if proxy.task == "sample" != config.data.task:
        log.warning(
            "proxy.task is 'sample', texts about country walks, while the clients learn %s; "
            "public text that is closer to theirs serves them better",
            config.data.task,
        )
    texts = proxy_texts(
        proxy.task,
        examples=proxy.examples,
        seed=config.seed,
        folder=proxy.folder,
        train=proxy.train,
        columns=proxy.columns,
        form=form,
    )
    size, length = proxy.batch_size, config.data.max_length
    batches = proxy_batches(texts, tokenizer, task.kind, batch_size=size, max_length=length)
    if not batches:
        raise DataError("the proxy data has no text of two tokens or more; see proxy.task")
    return [{name: value.to(device) for name, value in batch.items()} for batch in batches]
