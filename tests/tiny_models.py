"""Tiny random models of every family, and the batch that the tests feed them."""

from typing import Any

import torch
from transformers import (
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    MPNetConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
)

from leff.models import model_class

torch.set_num_threads(1)

LAYERS = 4
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED: dict[str, Any] = {**SIZES, **ENDS, "num_key_value_heads": 2}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 2}
DEBERTA: dict[str, Any] = {
    **SIZES,
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "type_vocab_size": 0,
    "position_biased_input": False,
}

DECODERS = {
    "gpt2": GPT2Config(vocab_size=50, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64, **ENDS),
    "gpt2-untied": GPT2Config(
        vocab_size=50,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        n_positions=64,
        tie_word_embeddings=False,
        **ENDS,
    ),
    "llama": LlamaConfig(**GROUPED),
    "llama-tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "mistral": MistralConfig(**GROUPED, sliding_window=3),
    "qwen2": Qwen2Config(**GROUPED, **WINDOWS),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8, **WINDOWS),
    "bert-decoder": BertConfig(**SIZES, is_decoder=True),
}
ENCODERS = {
    "deberta-v3": DebertaV2Config(**DEBERTA),
    "deberta-v2-conv": DebertaV2Config(**DEBERTA, conv_kernel_size=3),
    "deberta-v2-unshared": DebertaV2Config(**{**DEBERTA, "share_att_key": False}),
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "mpnet": MPNetConfig(**SIZES),
}
CONFIGS = {**DECODERS, **ENCODERS}
CASES = [
    *((name, "generation") for name in DECODERS),
    *((name, kind) for name in CONFIGS for kind in ("classification", "regression")),
]


def tiny(name: str, kind: str, seed: int = 0, layers: int = LAYERS) -> Any:
    """Return a random model in eval mode, every parameter drawn, norms and biases too."""
    config = CONFIGS[name]
    extra = {
        "regression": {"num_labels": 1, "problem_type": "regression"},
        "multilabel": {"problem_type": "multi_label_classification"},
    }.get(kind, {})
    config = type(config).from_dict({**config.to_dict(), **extra})
    config.num_hidden_layers = layers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config, kind).from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def batch() -> dict[str, torch.Tensor]:
    """Two rows (B 2, T 9) of which the second is padded."""
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}
