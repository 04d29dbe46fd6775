"""DeBERTa-v2 and v3, which share a type.

`encoder.LayerNorm` is no final norm: it normalises the relative-position embeddings that every
layer reads.  It trains all the same (PAPER, Table 5); the embeddings themselves are frozen.

family_of(DebertaV2Config()) is DEBERTA
"""

from leff.families.family import Family

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
