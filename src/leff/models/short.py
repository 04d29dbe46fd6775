"""A client's model: the real Hugging Face class, with fewer layers (PAPER Sec. 3.3).

    build_model(config, "generation", sources=[0, 3, 4, 7], state=tensors)

Layer j of the short model stands for layer `sources[j]` of the full one.  The model is built from
a short config and the received tensors.  The full model is never built.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from leff.errors import ModelError
from leff.models.detect import layer_count
from leff.models.half_words import widen_words
from leff.models.meta import empty_model

# Settings that make a layer depend on its number, with the values that do not.
LAYER_NUMBER_SETTINGS: dict[str, tuple[Any, ...]] = {
    "scale_attn_by_inverse_layer_idx": (False, None),
    "mlp_only_layers": ([], None),
    "decoder_sparse_step": (1, None),
    "first_k_dense_replace": (0, None),
    "moe_layer_freq": (1, None),
    "num_kv_shared_layers": (0, None),
    "cross_attention_layers": ([], None),
    "attention_types": (None,),
}
PER_LAYER_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers", "attention_layers")


def short_config(config: PretrainedConfig, sources: Sequence[int]) -> PretrainedConfig:
    """Return a new config with a layer for each of `sources`.

    Lists with an entry per layer keep the sources' entries.  ModelError for sources outside the
    model, and for settings that make a layer depend on its number.
    """
    layers = layer_count(config)
    outside = [source for source in sources if not 0 <= source < layers]
    if outside or not sources:
        raise ModelError(
            f"a short {config.model_type} needs layers between 0 and {layers - 1}, got "
            f"{list(sources)}"
        )
    if list(sources) != list(range(layers)):
        _refuse_numbered_layers(config)
    short = copy.deepcopy(config)
    for name in PER_LAYER_LISTS:
        entries: Sequence[Any] | None = getattr(config, name, None)
        if isinstance(entries, list | tuple) and len(entries) == layers:
            setattr(short, name, [entries[source] for source in sources])
    short.num_hidden_layers = len(sources)
    return short


def _refuse_numbered_layers(config: PretrainedConfig) -> None:
    for name, neutral in LAYER_NUMBER_SETTINGS.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ModelError(
                f"{config.model_type} with {name}={value!r} computes each layer by its number, "
                "so it cannot lose layers; use a model without it, or method fedavg"
            )


def build_model(
    config: PretrainedConfig,
    kind: str,
    sources: Sequence[int],
    state: Mapping[str, torch.Tensor],
    prepare: Callable[[nn.Module], None] | None = None,
    attn_implementation: str | None = None,
) -> nn.Module:
    """Return the model with layers `sources`, in train mode, made of the tensors in `state`.

    `config` is the full model's.  `state` has the short model's full names, and a tied tensor once.
    The tensors are used as they are, in their own dtype.  Clone those that will be trained if
    others hold them too.  Word embeddings may be float16 (see `half_words`).

    `prepare` runs while the model has no weights yet.  It may replace modules, even by modules that
    have their weights, and may change `state`.

    ModelError for a tensor that is missing, unexpected or of the wrong shape.
    """
    model: Any = empty_model(short_config(config, sources), kind, attn_implementation)
    buffers = {name for name, _ in model.named_buffers()} & set(model.state_dict())
    if prepare is not None:
        prepare(model)
    _check_shapes(model, state)
    keys = model.load_state_dict(
        {name: tensor.detach() for name, tensor in state.items()}, strict=False, assign=True
    )
    model.tie_weights()
    # The weights of a module from `prepare` are not in `state`.  A tensor on meta is missing.
    tensors = [*model.named_parameters(), *model.named_buffers()]
    missing = {name for name, tensor in tensors if tensor.is_meta}
    missing |= set(keys.missing_keys) & buffers
    if missing or keys.unexpected_keys:
        raise ModelError(
            f"the tensors do not make a {config.model_type} of {len(sources)} layers: missing "
            f"{_listed(missing)}; unexpected {_listed(keys.unexpected_keys)}"
        )
    widen_words(model)
    return model.train()


def _check_shapes(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    wrong = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in model.state_dict().items()
        if name in state and tensor.is_meta and tensor.shape != state[name].shape
    ]
    if wrong:
        raise ModelError(f"tensors of the wrong shape: {_listed(wrong)}")


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more
