"""Which tensors get adapters or train alone (Table 5), by name, and which layers there are."""

import pytest
import torch
from tiny_models import LAYERS, tiny

from leff.errors import ConfigError
from leff.models import bitfit_names, full_tail_names, layer_state, lora_modules

# Name, kind, path of the layers; a layer's modules with adapters, those with biases of their own,
# and the names outside the layers: with adapters, wholly trained, and FedBitFit's.
BERT = [f"attention.self.{name}" for name in ("query", "key", "value")]
BERT += ["attention.output.dense", "intermediate.dense", "output.dense"]
ROLES = {
    "gpt2": (
        ("gpt2", "generation", "transformer.h"),
        ["attn.c_attn", "attn.c_proj", "mlp.c_proj"],
        ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"],
        ([], [], ["transformer.ln_f.bias"]),
    ),
    "bert": (
        ("bert", "classification", "bert.encoder.layer"),
        BERT,
        [*BERT[:4], "attention.output.LayerNorm", *BERT[4:], "output.LayerNorm"],
        (["bert.pooler.dense"], *[["classifier.weight", "classifier.bias"]] * 2),
    ),
    "qwen2": (
        ("qwen2", "classification", "model.layers"),
        [
            *(f"self_attn.{name}_proj" for name in "qkvo"),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        ],
        [f"self_attn.{name}_proj" for name in "qkv"],
        ([], ["score.weight"], ["score.weight"]),
    ),
}


@pytest.mark.parametrize(("model", "adapted", "biased", "outside"), ROLES.values(), ids=ROLES)
def test_modules_and_parameters_that_train_by_name(model, adapted, biased, outside):
    name, kind, path = model
    found = tiny(name, kind)
    in_layers = [f"{path}.{layer}" for layer in range(LAYERS)]
    assert lora_modules(found) == [f"{x}.{y}" for x in in_layers for y in adapted] + outside[0]
    assert full_tail_names(found) == outside[1]
    biases = [f"{x}.{y}.bias" for x in in_layers for y in biased]
    assert bitfit_names(found) == biases + outside[2]


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_outside_the_model_is_refused(layer):
    with pytest.raises(ConfigError, match=f"layer must be 0 to 3, got {layer}"):
        layer_state(tiny("gpt2", "generation"), layer)


def test_a_layers_tensors_are_the_models_own_without_gradient():
    model = tiny("gpt2", "generation")
    for layer in range(LAYERS):
        for name, tensor in layer_state(model, layer).items():
            own = model.get_parameter(f"transformer.h.{layer}.{name}")
            assert tensor.data_ptr() == own.data_ptr() and not tensor.requires_grad
            assert torch.equal(tensor, own)
