"""A model's tensors by role: shell (always frozen), layers, tail (always trained).

    layer_state(model, 3)["attn.c_attn.weight"]

Tied tensors appear once, under the name that comes first in the model.  The embeddings come first,
so a head that is tied to them belongs to the shell.  An untied head belongs to the shell after
`freeze_head`.  Nothing is copied: the tensors are the model's own, without gradient.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from leff.errors import ConfigError
from leff.models.detect import family_of, linears
from leff.models.families import find

State = dict[str, torch.Tensor]

FROZEN_HEAD = "frozen_head"  # set in a model's config, so it travels with every job


def blocks(model: nn.Module) -> nn.ModuleList:
    """Return the list of the model's layers."""
    layers = find(model, family_of(model).blocks)
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_prefix(model: nn.Module, layer: int) -> str:
    """Return the prefix of the full names of a layer's tensors."""
    return f"{family_of(model).blocks}.{layer}."


def layer_state(model: nn.Module, layer: int) -> State:
    """Return a layer's tensors, named as inside it; ConfigError if there is no such layer."""
    layers = blocks(model)
    if not 0 <= layer < len(layers):
        raise ConfigError(f"layer must be 0 to {len(layers) - 1}, got {layer}")
    return dict(layers[layer].state_dict())


def freeze_head(model: Any) -> None:
    """Move a language model's untied head from its tail to its shell: it stays frozen.

    A head with 128k words is most of what trains (Llama-3.1-8B with one layer: 525 of 743 million
    parameters).  The paper trains it (Table 5).  ConfigError for a head that is tied to the
    embeddings, since it is frozen anyway, and for a classifier, which must train.
    """
    head = model.get_output_embeddings()
    if head is None or head.weight is model.get_input_embeddings().weight:
        reason = "none" if head is None else "one that is tied to its embeddings, frozen anyway"
        raise ConfigError(
            f"only a language model's own head can be frozen, and this {model.config.model_type} "
            f"has {reason}; leave model.train_head as it is"
        )
    setattr(model.config, FROZEN_HEAD, True)


def own_frozen_head(model: Any) -> Any:
    """Return the head that `freeze_head` has frozen, or None."""
    return model.get_output_embeddings() if getattr(model.config, FROZEN_HEAD, False) else None


def tail_state(model: nn.Module) -> State:
    """Return the tail's tensors, under their full names."""
    tail = _tail(model)
    return {name: tensor for name, tensor in _outside(model).items() if _under(name, tail)}


def shell_state(model: nn.Module) -> State:
    """Return every tensor outside layers and tail, under their full names."""
    tail = _tail(model)
    return {name: tensor for name, tensor in _outside(model).items() if not _under(name, tail)}


def full_state(model: nn.Module) -> State:
    """Return all of a model's tensors, under their full names: shell, layers and tail."""
    return _untied(model)


def trainable_names(model: nn.Module, layers: Iterable[int]) -> list[str]:
    """Return the names of the parameters of these layers and the tail, in the model's order.

    These train (PAPER, Table 5).
    """
    prefixes, tail = tuple(layer_prefix(model, layer) for layer in layers), _tail(model)
    return [
        name
        for name, _ in model.named_parameters()
        if (prefixes and name.startswith(prefixes)) or _under(name, tail)
    ]


def lora_modules(model: nn.Module) -> list[str]:
    """Return the full names of the linear modules that get LoRA's adapters (Table 5)."""
    family = family_of(model)
    prefix = family.blocks + "."
    return [
        name
        for name in linears(model)
        if name in family.lora_tail
        or (name.startswith(prefix) and name.rpartition(".")[2] in family.lora_targets)
    ]


def full_tail_names(model: nn.Module) -> list[str]:
    """Return the classifier's parameters, which train whole beside adapters or biases (Table 5)."""
    return [n for n, _ in model.named_parameters() if _under(n, family_of(model).full_tail)]


def bitfit_names(model: nn.Module) -> list[str]:
    """Return the parameters that FedBitFit trains (Table 5).

    These are the biases of the layers and of the final norm, and the whole classifier.
    ConfigError if the layers have no biases.
    """
    family = family_of(model)
    biases = [
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") and _under(name, (family.blocks, *family.bias_tail))
    ]
    if not any(_under(name, (family.blocks,)) for name in biases):
        raise ConfigError(
            f"fedbitfit trains biases and {family.name} has none; use fedlora or leff"
        )
    trained = {*biases, *full_tail_names(model)}
    return [name for name, _ in model.named_parameters() if name in trained]


def _under(name: str, paths: Iterable[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in paths)


def _tail(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules that always train."""
    frozen = own_frozen_head(model)
    paths = family_of(model).tail
    return tuple(path for path in paths if frozen is None or find(model, path) is not frozen)


def _untied(model: nn.Module) -> State:
    seen: set[int] = set()
    kept: State = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and id(tensor) not in seen:
            seen.add(id(tensor))
            kept[name] = tensor.detach()
    return kept


def _outside(model: nn.Module) -> State:
    prefix = family_of(model).blocks + "."
    return {n: tensor for n, tensor in _untied(model).items() if not n.startswith(prefix)}
