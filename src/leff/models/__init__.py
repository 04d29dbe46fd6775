"""Everything that LEFF knows about architectures; no other package names one.

    model, tokenizer = load_model("gpt2", "generation")
    client = build_model(model.config, "generation", [0, 5, 6, 11], state)

Each architecture has a record (`families`).  Functions do the rest from the record: tensors by
role, short models, replay of single layers.
"""

from leff.models.detect import family_of, layer_count, linear_shape, positions
from leff.models.families import FAMILIES, Family
from leff.models.forward import body_and_head, uncached
from leff.models.half_words import frozen_words, half_words
from leff.models.kinds import KINDS, model_class
from leff.models.known import KNOWN_CONFIGS, config_from_json, config_to_json, load_config
from leff.models.load import load_model
from leff.models.meta import empty_model
from leff.models.replay import Trace, capture, eager_attention, run_blocks
from leff.models.short import build_model, short_config
from leff.models.states import (
    FROZEN_HEAD,
    State,
    bitfit_names,
    blocks,
    freeze_head,
    full_state,
    full_tail_names,
    layer_prefix,
    layer_state,
    lora_modules,
    shell_state,
    tail_state,
    trainable_names,
)

# fmt: off
__all__ = [
    "FAMILIES",
    "FROZEN_HEAD",
    "KINDS",
    "KNOWN_CONFIGS",
    "Family",
    "State",
    "Trace",
    "bitfit_names",
    "blocks",
    "body_and_head",
    "build_model",
    "capture",
    "config_from_json",
    "config_to_json",
    "eager_attention",
    "empty_model",
    "family_of",
    "freeze_head",
    "frozen_words",
    "full_state",
    "full_tail_names",
    "half_words",
    "layer_count",
    "layer_prefix",
    "layer_state",
    "linear_shape",
    "load_config",
    "load_model",
    "lora_modules",
    "model_class",
    "positions",
    "run_blocks",
    "shell_state",
    "short_config",
    "tail_state",
    "trainable_names",
    "uncached",
]
# fmt: on
