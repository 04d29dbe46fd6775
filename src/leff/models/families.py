"""What LEFF has to know about an architecture, as one record (PAPER, "Which parameters train").

    family_of(GPT2Config()) is GPT2
    GPT2.blocks      # "transformer.h"

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


# The language-model head is tied to the embeddings and stays frozen with them.
GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    blocks="transformer.h",
    attention="attn",
    tail=("transformer.ln_f", "lm_head", "score"),
    lora_targets=("c_attn", "c_proj"),
    bias_tail=("transformer.ln_f",),
    plain_head=True,
)

# Llama and its kin.  An untied head trains, a tied one stays frozen.
LLAMA = Family(
    name="llama",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
    blocks="model.layers",
    attention="self_attn",
    tail=("model.norm", "lm_head", "score"),
    lora_targets=(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ),
    bias_tail=("model.norm",),
    plain_head=True,
)

# v2 and v3, which share a type.  `encoder.LayerNorm` is no final norm: it normalises the
# relative-position embeddings that every layer reads.  It trains all the same (PAPER, Table 5); the
# embeddings themselves are frozen.
DEBERTA = Family(
    name="deberta-v2",
    model_types=("deberta-v2",),
    blocks="deberta.encoder.layer",
    attention="attention.self",
    tail=("deberta.encoder.LayerNorm", "pooler", "classifier"),
    lora_targets=(
        "query_proj",
        "key_proj",
        "value_proj",
        "pos_key_proj",
        "pos_query_proj",
        "dense",
    ),
    lora_tail=("pooler.dense",),
    attention_flag=True,
    after_first="deberta.encoder.conv",
    tail_feeds_layers=True,
)

# Its rules follow DeBERTa's, the encoder that the paper has.
BERT = Family(
    name="bert",
    model_types=("bert",),
    blocks="bert.encoder.layer",
    attention="attention.self",
    tail=("bert.pooler", "classifier", "cls"),
    lora_targets=("query", "key", "value", "dense"),
    lora_tail=("bert.pooler.dense",),
)

# Its classifier has its own dense layer and takes the pooler's place.
ROBERTA = Family(
    name="roberta",
    model_types=("roberta",),
    blocks="roberta.encoder.layer",
    attention="attention.self",
    tail=("classifier", "lm_head"),
    lora_targets=("query", "key", "value", "dense"),
    offset_positions=True,
)

FAMILIES = (GPT2, LLAMA, DEBERTA, BERT, ROBERTA)
