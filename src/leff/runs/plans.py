"""Plans by name, without weights: what a method costs a client, and what a budget has room for.

planned("gpt2", "leff", RunConfig(), layers=2)["total_bytes"]
chosen("gpt2", RunConfig(), memory="1GB")["layers"]
"""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from transformers import PretrainedConfig

from leff.capacity.candidates import Setting, assumed_errors
from leff.capacity.choose import within
from leff.capacity.footprint import Choice
from leff.capacity.peak import logits_bytes, predict
from leff.capacity.plan import METHODS, plan
from leff.errors import ConfigError
from leff.models import empty_model, freeze_head
from leff.models.known import KNOWN_CONFIGS, load_config
from leff.runs.config import RunConfig
from leff.runs.setups import choice_of
from leff.runs.sources import model_source
from leff.runs.unused import ADAPTER_OPTIONS
from leff.units import BYTES, FLOPS, parse_amount

log = logging.getLogger("leff")

STEP = (
    "batch_size",
    "length",
    "labelled",
    "precision",
    "accumulation",
    "checkpointing",
    "optimizer",
)  # of `Choice`: what a step's bytes are for

OPTIONS = {  # of a run
    "batch_size": "training.batch_size",
    "length": "data.max_length",
    "precision": "training.precision",
    "accumulation": "training.accumulation",
    "checkpointing": "training.checkpointing",
    "optimizer": "training.optimizer",
}


def planned(model: str, method: str, config: RunConfig, **numbers: int) -> dict[str, Any]:
    """Return `capacity.plan` of a model by its name, in the configuration's context and batches.

    `numbers` are `layers`, `rank` and `base_bits`, which is the configuration's unless given.
    """
    return plan_of(model, method, config, choice_of(config, method, **numbers))


def check_used(method: str, given: Iterable[str]) -> None:
    """Say which options of a plan (layers, context.bits, ...) mean nothing to the method.

    Raises ConfigError for base_bits, which promise memory.  An unknown method passes: it is refused
    where it is looked up.
    """
    for option in given:
        methods = ADAPTER_OPTIONS.get(f"method.{option}", ("leff",))
        if method not in METHODS or method in methods:
            continue
        flag = option.removeprefix("context.").replace("_", "-").replace("name", "context")
        said = f"--{flag} means nothing to {method}, only to {', '.join(methods)}"
        if option == "base_bits":
            raise ConfigError(f"{said}; leave it out")
        log.info("%s", said)


def plan_of(model: str, method: str, config: RunConfig, asked: Choice) -> dict[str, Any]:
    """Return `planned` of a choice."""
    found = plan(
        *shape_of(model, config),
        method,
        asked.layers,
        context=asked.context,
        rank=asked.rank,
        base_bits=asked.base_bits,
        clients=asked.clients,
        embedding_bits=asked.embedding_bits,
        batch_size=asked.batch_size,
        length=asked.length,
        checkpointing=asked.checkpointing,
    ).to_dict()
    context = config.context.name if found["stand_in_layers"] else None
    return {**found, "model": model, "context": context}


def predicted(
    model: str, method: str, config: RunConfig, labelled: float = 1.0, **numbers: int
) -> dict[str, Any]:
    """Return `planned`, and what a training step holds: `prediction.predict`, with its settings.

    `predicted_bytes` is the largest sum at any moment; `activations`, `logits` and the rest are
    not all there at once.  `labelled` is the share of a text's tokens that have a label.
    """
    asked = replace(choice_of(config, method, **numbers), labelled=labelled)
    costs = planned(model, method, config, **numbers)
    shape, kind = shape_of(model, config)
    found = predict(shape, kind, method, asked)
    if asked.optimizer != "adamw":
        costs["total_bytes"] += found.optimizer - costs["optimizer"]
        costs["optimizer"] = found.optimizer
    return {
        **costs,
        "activations": found.activations,
        "logits": logits_bytes(shape, kind, asked),
        "predicted_bytes": found.peak,
        "step": step_of(asked),
    }


def chosen(
    model: str,
    config: RunConfig,
    memory: str | None = None,
    flops: str | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return the layers and the context of least error that fit budgets such as 64MB and 50G.

    `memory` bounds a step's peak, `predicted_bytes`.  Without weights nothing can be measured:
    errors are `assumed_errors`.  `options` are those of a run that does this, of `step` its own.
    ConfigError if nothing fits.
    """
    memory_bytes = None if memory is None else parse_amount(memory, BYTES)
    step_flops = None if flops is None else parse_amount(flops, FLOPS)
    asked = replace(choice_of(config, "leff"), labelled=labelled)
    shape, kind = shape_of(model, config)
    found, choice = within(shape, kind, asked, memory_bytes, step_flops)
    return {
        "model": model,
        "layers": found.layers,
        "context": str(found.setting),
        "predicted_bytes": predict(shape, kind, "leff", choice).peak,
        "state_bytes": found.state_bytes,
        "step_flops": found.step_flops,
        "assumed_error": assumed_errors([found])[found],
        "step": step_of(choice),
        "options": block_options(config, found.layers, found.setting, choice),
    }


def step_of(choice: Choice) -> dict[str, Any]:
    """Return how a step is done: what its peak is for."""
    return {name: getattr(choice, name) for name in STEP}


def block_options(
    config: RunConfig, layers: int, setting: Setting, choice: Choice
) -> dict[str, Any]:
    """Return the options of a run whose clients all train such a block."""
    return {"clients.layers": [layers], **setting.options(), **step_options(config, choice)}


def step_options(config: RunConfig, choice: Choice) -> dict[str, Any]:
    """Return the options of a run that does its steps so, where they are not the defaults."""
    plain = choice_of(RunConfig(), "leff")
    options: dict[str, Any] = {} if config.model.train_head else {"model.train_head": False}
    return options | {
        key: getattr(choice, name)
        for name, key in OPTIONS.items()
        if getattr(choice, name) != getattr(plain, name)
    }


def shape_of(model: str, config: RunConfig) -> tuple[PretrainedConfig, str]:
    """Return a model's configuration and kind, by a known name, a folder, a file or a hub id.

    ConfigError if its head is to be frozen and cannot be.
    """
    shape, kind = load_config(model if model in KNOWN_CONFIGS else model_source(model))
    if not config.model.train_head:
        made: Any = empty_model(shape, kind)
        freeze_head(made)
        shape = made.config
    return shape, kind
