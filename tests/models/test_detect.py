"""Architectures that have no record: found by looking, or refused."""

import logging
from types import SimpleNamespace

import pytest
import torch
from tiny_models import ENDS, SIZES, batch, tiny
from torch import nn
from transformers import (
    ElectraConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    PhiConfig,
    T5Config,
    ViTConfig,
)

from leff.errors import ConfigError, ModelError
from leff.models import (
    FAMILIES,
    bitfit_names,
    blocks,
    build_model,
    capture,
    detect,
    eager_attention,
    family_of,
    full_state,
    layer_count,
    lora_modules,
    model_class,
    run_blocks,
    tail_state,
)

OPT = {**SIZES, **ENDS, "ffn_dim": 48, "word_embed_proj_dim": 32}
UNKNOWN = {
    "gpt_neox": (GPTNeoXConfig(**SIZES, **ENDS), "generation", "gpt_neox.layers"),
    "opt": (OPTConfig(**OPT), "generation", "model.decoder.layers"),
    "phi": (PhiConfig(**SIZES, **ENDS), "generation", "model.layers"),
    "electra": (ElectraConfig(**SIZES), "classification", "electra.encoder.layer"),
}
# the head's name in the library, which was `embed_out` up to 5.13
NEOX_HEAD = next(iter(GPTNeoXForCausalLM._tied_weights_keys)).removesuffix(".weight")
TAILS = {
    "gpt_neox": {"gpt_neox.final_layer_norm", NEOX_HEAD},
    "opt": {"model.decoder.final_layer_norm"},  # the head is tied
    "phi": {"model.final_layernorm", "lm_head"},
    "electra": {"classifier.dense", "classifier.out_proj"},
}


@pytest.fixture(autouse=True)
def no_guesses_yet():
    detect._guesses.clear()


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_architectures_work(name, caplog):
    config, kind, path = UNKNOWN[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config, kind).from_config(config).eval()
    with caplog.at_level(logging.WARNING, "leff.models"):
        assert family_of(model).blocks == path
        assert family_of(model) is family_of(model)
    assert len(caplog.records) == 1 and path in caplog.text and name in caplog.text
    assert {n.rpartition(".")[0] for n in tail_state(model)} == TAILS[name]
    assert len(lora_modules(model)) % 4 == 0 and len(bitfit_names(model)) > 8
    built = build_model(model.config, kind, range(4), full_state(model)).eval()
    with torch.no_grad():
        assert torch.equal(built(**batch()).logits, model(**batch()).logits)
        with eager_attention(model):
            trace = capture(model, batch(), attention=True)
            hidden, maps = run_blocks(blocks(model), trace.hidden[0], trace, range(4), True)
            wanted = model(**batch(), output_attentions=True).attentions
    assert torch.equal(hidden, trace.hidden[4])
    torch.testing.assert_close(maps, list(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_config_is_enough(name):
    config, _, path = UNKNOWN[name]
    assert family_of(config).blocks == path


def test_known_types_are_not_guessed(caplog):
    for family in FAMILIES:
        for model_type in family.model_types:
            assert (
                family_of(SimpleNamespace(config=SimpleNamespace(model_type=model_type))) is family
            )
    assert not caplog.records and not detect._guesses


def test_layers_that_cannot_be_found_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = SimpleNamespace(model_type="odd", num_hidden_layers=3)
            self.left = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.right = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))

    model = Odd()
    with pytest.raises(ModelError, match=r"'odd': .*ModuleList of 3 .*found left, right"):
        family_of(model)
    model.config.num_hidden_layers = 2
    with pytest.raises(ModelError, match="found none"):
        family_of(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [(ViTConfig(), "neither a causal"), (T5Config(), "cannot find the layers")],
)
def test_models_of_other_shapes_are_refused(config, message):
    with pytest.raises(ModelError, match=message):
        family_of(config)


def test_a_config_without_layers_is_refused():
    with pytest.raises(ModelError, match="no num_hidden_layers"):
        layer_count(SimpleNamespace(model_type="odd"))  # type: ignore[arg-type]


def test_models_without_biases_have_no_bitfit():
    with pytest.raises(ConfigError, match="fedbitfit trains biases and llama has none"):
        bitfit_names(tiny("llama", "classification"))
    assert all(
        n.endswith(("bias", "score.weight")) for n in bitfit_names(tiny("qwen2", "regression"))
    )
