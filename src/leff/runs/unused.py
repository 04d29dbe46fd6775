"""."""

from typing import Any

from leff.runs.options import RunConfig


def unused_options(config: RunConfig) -> list[str]:
    """Return the options that were changed and have no effect, given the others."""
    unused = [*_unused_by_method(config), *_unused_by_partition(config.clients.partition)]
    unused += [] if config.clients.deadline else ["clients.min_steps_share"]
    default = RunConfig(preset=config.preset)
    return [key for key in unused if _value(config, key) != _value(default, key)]


ADAPTER_OPTIONS = {  # of the methods with adapters
    "method.rank": ("fedlora", "slora", "flora", "flexlora"),
    "method.lora_alpha": ("fedlora", "slora", "flora", "flexlora"),
    "method.base_bits": ("fedlora", "flexlora"),
    "method.sparse_share": ("slora",),
    "clients.ranks": ("flora", "flexlora"),
}


def _unused_by_method(config: RunConfig) -> list[str]:
    name = config.method.name
    unused = [key for key, methods in ADAPTER_OPTIONS.items() if name not in methods]
    if config.clients.ranks:  # they say it all
        unused += ["method.rank"]
    return unused + (_unused_by_leff(config) if name == "leff" else _of_leff())


def _of_leff() -> list[str]:
    """Return the options that only LEFF uses."""
    sections = {"method": RunConfig().method, "context": RunConfig().context}
    sections["proxy"] = RunConfig().proxy
    every = [f"{key}.{name}" for key, s in sections.items() for name in type(s).model_fields]
    every += [
        "clients.layers",
        "clients.flops",
        "evaluation.gap_clients",
        "evaluation.gradient_error",
    ]
    return [key for key in every if key not in ("method.name", *ADAPTER_OPTIONS)]


def _unused_by_leff(config: RunConfig) -> list[str]:
    contexts = {config.context.name, config.context.suffix or config.context.name}
    if "auto" in contexts:  # which tries them all
        contexts = {"distil", "drop", "quantise"}
        auto = ["clients.layers", "context.rate", "context.bits", "context.whole"]
    else:
        auto = ["clients.flops"]
    unused = auto + (
        []
        if config.evaluation.gap_clients
        else ["evaluation.gap_examples", "evaluation.gradient_error"]
    )
    if config.method.sampling != "importance":
        importance = ("scale", "temperature", "source", "exploration")
        unused += [f"method.{name}" for name in importance]
    if config.method.sampling in ("round_robin", "fixed"):
        unused += ["method.stratified"]
    if config.method.sampling != "importance" or config.method.source != "proxy":
        unused += ["proxy.importance_batches"]
    if "distil" not in contexts:
        distillation = (
            "steps",
            "learning_rate",
            "attention_weight",
            "whole",
            "target_error",
            "seconds",
        )
        unused += [f"context.{name}" for name in distillation]
    return unused + (["context.rate"] if contexts == {"quantise"} else [])


def _unused_by_partition(partition: str) -> list[str]:
    unused = [] if partition == "dirichlet" else ["clients.alpha"]
    return [*unused, "clients.by"] if partition == "iid" else unused


def _value(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)
