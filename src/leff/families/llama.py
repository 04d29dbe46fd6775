"""Llama and its kin: Mistral, Qwen2, Qwen3. An untied head trains, a tied one stays frozen.

family_of(LlamaConfig()) is LLAMA
"""

from leff.families.family import Family

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
