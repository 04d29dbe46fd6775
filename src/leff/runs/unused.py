"""Finds options of a configuration that have no effect, given the others.

unused_options(config)              # ["clients.alpha"]
unused_options(config, "chat")      # the kind of task, once the data is read
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from leff.methods.registry import methods, spec_of
from leff.methods.stand_ins import Distillation
from leff.runs.levelling import is_levelled
from leff.runs.option_types import Section
from leff.runs.options import RunConfig

OF_KIND = {"data.prompt": "generation", "data.group": "generation", "data.chat_template": "chat"}


def unused_options(config: RunConfig, kind: str | None = None) -> list[str]:
    """Return the options that were changed and have no effect, given the others and the kind."""
    unused = [key for key, own in OF_KIND.items() if kind not in (None, own)]
    unused += [*_unused_by_method(config), *_unused_by_partition(config.clients.partition)]
    timed = config.clients.deadline or config.engine.name == "flower"
    unused += [] if timed else ["clients.min_steps_share"]
    unused += [] if config.method.merge == "trimmed_mean" else ["method.trim"]
    unused += [] if config.method.merge == "mean" else ["method.most_weight", "method.weights"]
    unused += [] if config.training.calibrated else ["training.calibrated_from"]
    levelled = config.training.levelled if kind is None else is_levelled(config, kind)
    unused += _unused_by_place(config.evaluation.where, levelled)
    unused += _unused_by_engine(config.engine.name)
    default = defaults_of(config)
    return [key for key in unused if _value(config, key) != _value(default, key)]


def defaults_of(config: RunConfig) -> RunConfig:
    """Return the defaults beside a configuration's preset, task, method and privacy."""
    return RunConfig.model_validate(
        {
            "preset": config.preset,
            "data": {"task": config.data.task},
            "method": {"name": config.method.name},
            "privacy": {"noise": 1.0} if config.privacy.on else {},
        }
    )


def _unused_by_method(config: RunConfig) -> list[str]:
    spec = spec_of(config.method.name)
    own = set(_expanded(spec.options))
    special = _expanded(key for each in methods().values() for key in each.options)
    unused = [key for key in dict.fromkeys(special) if key not in own]
    if config.clients.ranks:  # they replace it
        unused += ["method.rank"]
    return unused + (_unused_by_blocks(config) if spec.trains_blocks else [])


def _expanded(options: Iterable[str]) -> Iterator[str]:
    """Yield full option names; a section's name stands for all its options."""
    for key in options:
        section = getattr(RunConfig(), key, None)
        names = type(section).model_fields if isinstance(section, Section) else ()
        yield from (f"{key}.{name}" for name in names) if names else (key,)


def _unused_by_blocks(config: RunConfig) -> list[str]:
    contexts = {config.context.name, config.context.suffix or config.context.name}
    if "auto" in contexts:  # it tries all contexts
        contexts = {"distil", "drop", "quantise"}
        auto = ["clients.layers", "context.rate", "context.bits", "context.whole"]
    else:
        auto = ["clients.flops"]
    gap = ["evaluation.gap_examples", "evaluation.gradient_error"]
    unused = auto + ([] if config.evaluation.gap_clients else gap)
    if config.method.sampling != "importance":
        importance = ("scale", "temperature", "source", "exploration")
        unused += [f"method.{name}" for name in importance]
    if config.method.sampling in ("round_robin", "fixed"):
        unused += ["method.stratified", "method.mixed"]
    if not config.training.levelled:
        unused += ["method.mixed"]
    if config.method.sampling != "importance" or config.method.source != "proxy":
        unused += ["proxy.importance_batches"]
    if "distil" not in contexts:
        unused += [f"context.{each.name}" for each in fields(Distillation)]
    return unused + (["context.rate"] if contexts == {"quantise"} else [])


def _unused_by_partition(partition: str) -> list[str]:
    unused = [] if partition == "dirichlet" else ["clients.alpha"]
    return [*unused, "clients.by"] if partition in ("iid", "files") else unused


def _unused_by_place(where: str, levelled: bool) -> list[str]:
    """Return the options that mean nothing where the model is not measured."""
    if where == "server":
        shared = [] if levelled else ["evaluation.bits", "clients.validation_share"]
        return [*shared, "evaluation.device_metric"]
    names = ("examples", "final_examples", "gap_clients", "beams", "max_new_tokens")
    return [f"evaluation.{name}" for name in names] if where == "devices" else []


def _unused_by_engine(name: str) -> list[str]:
    """Return the options of other engines, and those of simulated clients for real ones."""
    own = {
        "local": ["workers"],
        "flower": [
            *("server", "quorum", "wait", "deadline", "partial", "device_clients", "spare"),
        ],
        "flower-simulation": ["workers", "client_cpus", "client_gpus", "ray"],
    }
    every = dict.fromkeys(option for options in own.values() for option in options)
    unused = [f"engine.{option}" for option in every if option not in own[name]]
    if name == "flower":
        clients = ("count", "partition", "by", "alpha", "min_examples", "validation_share")
        unused += [*(f"clients.{each}" for each in clients), "data.train", "data.train_examples"]
    return unused


def _value(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
