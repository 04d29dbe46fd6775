"""What LEFF has to know about an architecture, as one record (PAPER, "Which parameters train").

    family_of(GPT2Config()) is GPT2
    GPT2.blocks      # "transformer.h"

Paths are dotted module names inside the full Hugging Face model.  A path that a model does not
have is skipped, so one record serves both a language model and a classifier.
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
    lora_targets: tuple[str, ...] = ()  # last names of a layer's linear modules that get adapters
    lora_tail: tuple[str, ...] = ()  # paths of linear modules outside the layers that get adapters
    bias_tail: tuple[str, ...] = ()  # paths outside the layers whose biases BitFit trains
    full_tail: tuple[str, ...] = ("classifier", "score")  # trained whole beside adapters or biases
    attention_flag: bool = False  # a layer makes its map only if it gets output_attentions=True
    offset_positions: bool = False  # positions are counted from the padding token's id
    plain_head: bool = False  # a language model's logits are the body's output times its head
    after_first: str | None = None  # path of a module that runs between the first two layers
    tail_feeds_layers: bool = False  # every layer reads the tail, so layers before a block train it


def find(model: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a dotted path, or None if the model has none there."""
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

# Llama and its relatives.  An untied head trains; a tied head stays frozen.
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

# v2 and v3 share a type.  `encoder.LayerNorm` is no final norm: it normalises the
# relative-position embeddings, which every layer reads.  The embeddings are frozen, but this norm
# trains (PAPER, Table 5).
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

# The rules follow those of DeBERTa, the paper's encoder.
BERT = Family(
    name="bert",
    model_types=("bert",),
    blocks="bert.encoder.layer",
    attention="attention.self",
    tail=("bert.pooler", "classifier", "cls"),
    lora_targets=("query", "key", "value", "dense"),
    lora_tail=("bert.pooler.dense",),
)

# The classifier has a dense layer of its own and takes the pooler's place.
ROBERTA = Family(
    name="roberta",
    model_types=("roberta",),
    blocks="roberta.encoder.layer",
    attention="attention.self",
    tail=("classifier", "lm_head"),
    lora_targets=("query", "key", "value", "dense"),
    offset_positions=True,
)

# The relative-position embeddings, which every layer reads, are frozen as other embeddings are.
MPNET = Family(
    name="mpnet",
    model_types=("mpnet",),
    blocks="mpnet.encoder.layer",
    attention="attention.attn",
    tail=("classifier", "lm_head"),
    lora_targets=("q", "k", "v", "o", "dense"),
    attention_flag=True,
    offset_positions=True,
)

FAMILIES = (GPT2, LLAMA, DEBERTA, BERT, ROBERTA, MPNET)
