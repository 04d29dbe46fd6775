"""What LEFF has to know about an architecture, as one record (PAPER, "Which parameters train").

    from leff.families.gpt2 import GPT2; GPT2.blocks      # "transformer.h"

Paths are dotted module names inside the full Hugging Face model; a path that a model does not
have is skipped, so that one record serves a language model and a classifier alike.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """One architecture: where its layers are, what always trains, what LoRA and BitFit touch."""

    name: str
    model_types: tuple[str, ...]  # values of config.model_type
    blocks: str  # path of the list of layers
    attention: str  # within a layer: the module whose output[1] is the attention map (B, H, T, T)
    tail: tuple[str, ...]  # trained by every client, beside its layers
    lora_targets: tuple[str, ...] = ()  # last names of linear modules in a layer that get adapters
    lora_tail: tuple[str, ...] = ()  # paths of linear modules outside the layers that do too
    bias_tail: tuple[str, ...] = ()  # paths outside the layers whose biases BitFit trains
    full_tail: tuple[str, ...] = ("classifier", "score")  # trained whole beside adapters or biases
    attention_flag: bool = False  # the map is made only if the layer gets output_attentions=True
    offset_positions: bool = False  # positions are counted from the padding token's id on
    plain_head: bool = False  # a language model's logits are its head times the body's output
    after_first: str | None = None  # path of a module that runs between the first two layers
    tail_feeds_layers: bool = False  # every layer reads the tail, so those before a block train it


def find(model: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a dotted path, or None where the model has none."""
    module: object = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None
