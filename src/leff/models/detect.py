"""Find an architecture's record, or derive one for an architecture that has none.

    family_of(model).blocks      # "transformer.h"

Detection looks for one list of modules: as many as the config has layers, and all of one type.
The modules that come after this list are taken for the tail.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from leff.errors import ModelError
from leff.models.families import FAMILIES, Family
from leff.models.kinds import KINDS, fits
from leff.models.meta import empty_model

log = logging.getLogger("leff.models")
_guesses: dict[tuple[str, str], Family] = {}  # by model type and class: each is logged once


def family_of(source: PretrainedConfig | nn.Module) -> Family:
    """Return the record of a config's or a model's architecture.

    Without a record, one is derived and logged.  ModelError if the layers cannot be found.
    """
    config: Any = source if isinstance(source, PretrainedConfig) else source.config
    known = next((f for f in FAMILIES if config.model_type in f.model_types), None)
    if known is not None:
        return known
    key = (config.model_type, "" if source is config else type(source).__name__)
    if key not in _guesses:
        model = source if isinstance(source, nn.Module) else _any_model(config)
        _guesses[key] = family = _guess(model, config)
        log.warning(
            "no record of architecture %r: taking %s for its %d layers and %s for its tail",
            config.model_type,
            family.blocks,
            layer_count(config),
            ", ".join(family.tail) or "nothing",
        )
    return _guesses[key]


def layer_count(config: PretrainedConfig) -> int:
    """Return L, the number of transformer layers; ModelError if the config does not say."""
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise ModelError(
            f"the config of {config.model_type!r} has no num_hidden_layers, so its layers cannot "
            "be told apart; take one of the architectures in leff.models"
        )
    return layers


def positions(config: PretrainedConfig) -> int:
    """Return how many tokens the model has positions for; `sys.maxsize` if nothing limits them."""
    count = getattr(config, "max_position_embeddings", None)
    if not isinstance(count, int):
        return sys.maxsize
    return count - (config.pad_token_id or 0) - 1 if family_of(config).offset_positions else count


def _any_model(config: PretrainedConfig) -> nn.Module:
    kind = next((kind for kind in KINDS if fits(config, kind)), None)
    if kind is None:
        raise ModelError(
            f"architecture {config.model_type!r} has neither a causal language model nor a "
            "sequence classifier in transformers; take one that has"
        )
    return empty_model(config, kind)


def _guess(model: nn.Module, config: PretrainedConfig) -> Family:
    layers = layer_count(config)
    lists = {
        name: module
        for name, module in named_modules(model)
        if isinstance(module, nn.ModuleList)
        and len(module) == layers
        and len({type(member) for member in module}) == 1
    }
    paths = [name for name in lists if not any(name.startswith(f"{path}.") for path in lists)]
    if len(paths) != 1:
        raise ModelError(
            f"cannot find the layers of architecture {config.model_type!r}: looked for one "
            f"ModuleList of {layers} modules of one type, found {', '.join(paths) or 'none'}; "
            "add a Family record"
        )
    path = paths[0]
    block = lists[path][0]
    return Family(
        name=config.model_type,
        model_types=(config.model_type,),
        blocks=path,
        attention=next((n for n, m in named_modules(block) if "Attention" in type(m).__name__), ""),
        tail=_modules_after(model, path),
        lora_targets=tuple(dict.fromkeys(name.rpartition(".")[2] for name in linears(block))),
    )


def _modules_after(model: nn.Module, path: str) -> tuple[str, ...]:
    """Return the paths of modules that run after the list: registered later, or a norm beside it.

    Modules without parameters are left out.
    """
    after: list[str] = []
    names = path.split(".")
    for depth, name in enumerate(names):
        prefix = "".join(f"{part}." for part in names[:depth])
        owner = model.get_submodule(prefix.removesuffix("."))
        later = False
        for child, module in owner.named_children():
            final_norm = "norm" in type(module).__name__.lower() and "emb" not in child
            if (later or final_norm) and not isinstance(module, nn.Embedding) and child != name:
                after.append(prefix + child)
            later = later or child == name
    return tuple(p for p in after if any(True for _ in model.get_submodule(p).parameters()))


def named_modules(module: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Return the modules inside a module with their paths, as torch does, but typed."""
    return module.named_modules()  # pyright: ignore[reportUnknownVariableType]  # untyped


def linears(module: nn.Module) -> dict[str, nn.Linear | Conv1D]:
    """Return the Linear and Conv1D modules inside a module, by path."""
    return {n: m for n, m in named_modules(module) if isinstance(m, nn.Linear | Conv1D)}


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (outputs, inputs) of a Linear or of GPT-2's Conv1D, None for any other module."""
    if not isinstance(module, nn.Linear | Conv1D):
        return None
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)
