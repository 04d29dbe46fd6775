"""Builds everything that a run needs from its configuration, and checks it before training.

federation = prepare(config, RunFolder.new(path, config))
federation.run(progress)
"""

import hashlib
import logging
from typing import Any

import torch

from leff.errors import ConfigError, DataError
from leff.extras import need
from leff.methods.jobs import JobWriter
from leff.methods.level import needs_proxy
from leff.methods.registry import spec_of
from leff.methods.stand_ins import Batch
from leff.models import blocks, full_state, positions
from leff.models.hardware import check_step, torch_device
from leff.runs.budgets import make_limits, with_file_clients, with_fleet_count
from leff.runs.build_method import build_method
from leff.runs.federation import Federation
from leff.runs.folder import RunFolder
from leff.runs.guard import make_guard
from leff.runs.levelling import leveller_of
from leff.runs.on_devices import on_devices
from leff.runs.options import RunConfig
from leff.runs.population import simulated_population
from leff.runs.privacy import check_method, make_privacy
from leff.runs.rates import with_learning_rate
from leff.runs.shares import divided
from leff.runs.sources import evaluator_for, load_start, task_of, text_form, with_prompt
from leff.runs.unused import unused_options
from leff.server import Server
from leff.tasks.generation import MIN_PROMPT
from leff.tasks.proxy import proxy_batches, proxy_texts
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import tensors_digest

log = logging.getLogger("leff")


def prepare(config: RunConfig, folder: RunFolder) -> Federation:
    """Load, check and build everything that a run needs; nothing is trained yet.

    Raises ConfigError, DataError or ModelError for what is missing, wrong or does not fit.
    """
    need("server", "a run")
    spec, simulated = spec_of(config.method.name), config.engine.name != "flower"
    config = with_file_clients(with_fleet_count(config)) if simulated else config
    device = torch_device(config.engine.device)
    check_step(config.training.step, device)
    task = task_of(config)
    measured_here = config.evaluation.where != "devices"
    if measured_here and not len(task.validation):
        raise ConfigError(
            "there is no validation data on this machine to measure on; let the devices measure "
            "(evaluation.where = 'devices'), or name a file (data.validation)"
        )
    config = with_prompt(config, task)
    rows = None
    if simulated:
        config, train, split = divided(config, task)
        rows = train, split
    model, tokenizer = load_start(config, task)
    config, form = (
        with_learning_rate(config, model.config, task.kind),
        text_form(config, task, tokenizer),
    )
    _check_positions(config, model, task.kind)
    place = folder.path.absolute()  # workers that stay from run to run have an older working folder
    store = PartStore(place / "parts")
    if rows is not None:
        clients = simulated_population(config, task, rows, model, tokenizer, store, place)
    else:
        from leff.runs.network import network_population

        clients = network_population(config, task, model, tokenizer, store, folder.path)
    privacy = make_privacy(config, folder)
    writer = JobWriter(
        store,
        task.kind,
        tokenizer.pad_token_id,
        upload=config.engine.upload,
        private=privacy is not None,
        clip=privacy.job_clip if privacy is not None else 0.0,
        noise=privacy.job_noise if privacy is not None else 0.0,
        held=config.privacy.secure_sums,
    )
    digests = {
        **clients.digests,
        "evaluation_digest": _digest_rows(task),
        "model_digest": tensors_digest([full_state(model)]),
    }
    proxy = []
    if spec.trains_blocks or (config.training.levelled and needs_proxy(model, task.kind)):
        proxy = _proxy(config, tokenizer, task, device, form)
        digests["proxy_digest"] = tensors_digest(proxy)
    model = model.to(device)
    method = build_method(config, writer, proxy, model)
    check_method(config, method)
    guard = make_guard(config, method, clients.layers, len(blocks(model)), task.kind)
    if unused := unused_options(config, task.kind):
        log.info("without effect in this run: %s", ", ".join(unused))
    limits = make_limits(config, task.kind, model)
    return Federation(
        config=config,
        folder=folder,
        task=task,
        tokenizer=tokenizer,
        model=model,
        clients=clients,
        method=method,
        server=Server(store, Spool(folder.path / "updates"), limits, guard, counted=not simulated),
        evaluator=evaluator_for(config, task, tokenizer) if measured_here else None,
        on_devices=on_devices(config, task, writer),
        leveller=leveller_of(config, task, writer, proxy),
        privacy=privacy,
        digests=digests,
    )


def _check_positions(config: RunConfig, model: Any, kind: str) -> None:
    """Raise ConfigError for texts longer than the model has positions for."""
    most = positions(model.config)
    wanted = {"data.max_length": (config.data.max_length, most)}
    if kind in ("generation", "chat") and config.evaluation.where != "devices":
        room = most - MIN_PROMPT
        wanted["evaluation.max_new_tokens"] = (config.evaluation.max_new_tokens, room)
    for key, (value, limit) in wanted.items():
        if value > limit:
            raise ConfigError(
                f"{key} must be at most {limit}, as {config.model.name} has {most} positions, "
                f"got {value}"
            )


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
