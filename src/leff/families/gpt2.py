"""GPT-2. The language-model head is tied to the embeddings and stays frozen with them.

family_of(GPT2Config()) is GPT2
"""

from leff.families.family import Family

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
