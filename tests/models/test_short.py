"""Short models against the library's own, on tiny random models of every family."""

import json
import threading

import pytest
import torch
from tiny_models import CASES, CONFIGS, DECODERS, LAYERS, batch, tiny
from torch import nn

from leff.errors import ConfigError, ModelError
from leff.models import (
    blocks,
    build_model,
    config_from_json,
    config_to_json,
    empty_model,
    family_of,
    full_state,
    layer_prefix,
    layer_state,
    model_class,
    shell_state,
    short_config,
    tail_state,
    trainable_names,
)

SOURCES = [0, 2, 3]


def state_of_short(model, sources):
    state = {**shell_state(model), **tail_state(model)}
    for j, source in enumerate(sources):
        prefix = layer_prefix(model, j)
        state |= {prefix + name: t for name, t in layer_state(model, source).items()}
    return state


def library_short(model, kind, sources):
    """The library's model of those layers, built without any of our code for short models."""
    values = model.config.to_dict()
    layers = "n_layer" if "n_layer" in values else "num_hidden_layers"
    values[layers] = len(sources)
    if values.get("layer_types"):
        values["layer_types"] = [values["layer_types"][source] for source in sources]
    config = type(model.config).from_dict(values)
    short = model_class(config, kind).from_config(config)
    short.load_state_dict(state_of_short(model, sources), strict=False)
    return short.eval()


def logits(model):
    with torch.no_grad():
        return model(**batch()).logits


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_all_layers_equal_the_library(name, kind):
    model = tiny(name, kind)
    built = build_model(model.config, kind, range(LAYERS), full_state(model))
    assert built.training
    assert type(built) is type(model)
    assert torch.equal(logits(built.eval()), logits(model))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_short_models_equal_the_library(name, kind):
    model = tiny(name, kind)
    state = state_of_short(model, SOURCES)
    short = build_model(model.config, kind, SOURCES, state).eval()
    assert torch.equal(logits(short), logits(library_short(model, kind, SOURCES)))
    assert not torch.equal(logits(short), logits(model))
    assert not any(t.is_meta for t in [*short.parameters(), *short.buffers()])


@pytest.mark.parametrize("sources", [range(LAYERS), SOURCES, [2]], ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_generation_equals_the_library(name, sources):
    model = tiny(name, "generation")
    short = build_model(model.config, "generation", sources, state_of_short(model, sources)).eval()
    library = library_short(model, "generation", list(sources))
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt = {"input_ids": batch()["input_ids"][:1], "attention_mask": torch.ones(1, 9)}
    wanted = library.generate(**prompt, **settings)
    assert wanted.shape == (1, 21)
    assert torch.equal(short.generate(**prompt, **settings), wanted)
    assert torch.equal(short.generate(**prompt, **settings, use_cache=False), wanted)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_roles_split_a_model_without_rest(name, kind):
    model = tiny(name, kind)
    shell, tail = shell_state(model), tail_state(model)
    layers = {
        layer_prefix(model, i) + name: tensor
        for i in range(LAYERS)
        for name, tensor in layer_state(model, i).items()
    }
    everything = full_state(model)
    assert len(shell) + len(tail) + len(layers) == len(everything)
    assert {**shell, **tail, **layers}.keys() == everything.keys()
    assert {n for n, _ in model.named_parameters()} == everything.keys()
    trained = trainable_names(model, [1])
    assert set(trained) == {*tail, *(n for n in layers if n.startswith(layer_prefix(model, 1)))}
    assert not any("emb" in name or "wte" in name for name in tail)


def test_roles_are_references():
    model = tiny("gpt2", "generation")
    layer_state(model, 1)["ln_1.weight"].fill_(7.0)
    tail_state(model)["transformer.ln_f.weight"].fill_(7.0)
    assert (blocks(model)[1].ln_1.weight == 7).all()
    assert (model.transformer.ln_f.weight == 7).all()


@pytest.mark.parametrize("name", ["gpt2", "llama-tied"])
def test_tied_heads_stay_tied_and_frozen(name):
    model = tiny(name, "generation")
    built = build_model(model.config, "generation", [1], state_of_short(model, [1]))
    assert built.get_output_embeddings().weight is built.get_input_embeddings().weight
    assert not any("lm_head" in name for name in trainable_names(model, [0]))


@pytest.mark.parametrize("name", ["gpt2-untied", "llama"])
def test_untied_heads_train(name):
    assert "lm_head.weight" in trainable_names(tiny(name, "generation"), [0])


def test_no_bytes_before_the_tensors_come():
    for name, config in CONFIGS.items():
        model = empty_model(config, "generation" if name in DECODERS else "classification")
        assert all(p.is_meta for p in model.parameters())
        assert not any(b.is_meta for b in model.buffers())


def test_other_threads_and_the_random_state_are_left_alone():
    state = torch.get_rng_state()
    made = []

    def build():
        made.extend(nn.Linear(2, 2).weight.is_meta for _ in range(2000))

    thread = threading.Thread(target=build)
    thread.start()
    for _ in range(3):
        empty_model(CONFIGS["gpt2"], "generation")
    thread.join()
    assert not any(made)
    torch.set_rng_state(state)
    empty_model(CONFIGS["llama"], "generation")
    assert torch.equal(torch.get_rng_state(), state)


def test_prepare_may_bring_weights():
    model = tiny("gpt2", "generation")
    state = full_state(model)
    swapped = nn.Linear(32, 128)

    def prepare(built):
        assert next(built.parameters()).is_meta
        built.transformer.h[0].mlp.c_fc = swapped
        for name in ("weight", "bias"):
            del state[f"transformer.h.0.mlp.c_fc.{name}"]

    built = build_model(model.config, "generation", range(LAYERS), state, prepare)
    assert built.transformer.h[0].mlp.c_fc is swapped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("transformer.h.1.ln_1.bias"), "missing transformer.h.1.ln_1.bias"),
        (lambda s: s.pop("transformer.wte.weight"), "missing .*transformer.wte.weight"),
        (lambda s: s.update(odd=torch.ones(1)), "unexpected odd"),
        (
            lambda s: s.update({"transformer.h.0.ln_1.bias": torch.ones(3)}),
            r"ln_1.bias is \(3,\), not \(32,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    model = tiny("gpt2", "generation")
    state = full_state(model)
    change(state)
    with pytest.raises(ModelError, match=message):
        build_model(model.config, "generation", range(LAYERS), state)


def test_short_configs_keep_the_sources_settings():
    config = CONFIGS["qwen2"]
    short = short_config(config, [3, 0, 0])
    assert short.num_hidden_layers == 3
    assert short.layer_types == [config.layer_types[i] for i in (3, 0, 0)]
    assert config.num_hidden_layers == len(config.layer_types) == LAYERS  # untouched


def test_layers_that_know_their_number_are_refused():
    config = type(CONFIGS["gpt2"])(n_layer=3, scale_attn_by_inverse_layer_idx=True)
    assert short_config(config, range(3)).num_hidden_layers == 3
    with pytest.raises(ModelError, match="scale_attn_by_inverse_layer_idx=True"):
        short_config(config, [0, 2])


@pytest.mark.parametrize("sources", [[], [4], [-1, 0]])
def test_sources_outside_the_model_are_refused(sources):
    with pytest.raises(ModelError, match="layers between 0 and 3"):
        short_config(CONFIGS["gpt2"], sources)
    with pytest.raises(ConfigError, match="layer must be 0 to 3"):
        layer_state(tiny("gpt2", "generation"), 4)


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_survive_json(name):
    config = tiny(name, "regression").config
    again = config_from_json(config_to_json(config))
    assert again == config
    assert (again.num_labels, again.problem_type) == (1, "regression")
    assert family_of(again) is family_of(config)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"model_type": "no-such"}', '{"model_type": "gpt2", "n_layer": "two"}'],
)
def test_bad_json_is_no_config(text):
    with pytest.raises(ModelError, match="no model configuration"):
        config_from_json(text)


@pytest.mark.parametrize(
    "named",
    [
        {"attn_implementation": "somebody/kernel"},
        {"_attn_implementation": "somebody/kernel"},
        {"attn_implementation": {"": "somebody/kernel"}},
        {"experts_implementation": "deepgemm"},
        {"sub": [{"attn_implementation": "flash_attention_2"}]},
    ],
)
def test_a_configuration_that_names_code_is_refused(named):
    """transformers would fetch it from the hub and run it, where `kernels` is installed."""
    values = json.loads(config_to_json(CONFIGS["gpt2"]))
    with pytest.raises(
        ModelError, match=r"_implementation = .*, code that would have to be fetched"
    ):
        config_from_json(json.dumps({**values, **named}))
    config_from_json(json.dumps({**values, "attn_implementation": "eager"}))


def test_positions_leave_out_those_below_the_padding_token():
    from transformers import DebertaV2Config, GPT2Config, RobertaConfig

    from leff.models import positions

    assert positions(GPT2Config(n_positions=77)) == 77
    assert positions(RobertaConfig(max_position_embeddings=66, pad_token_id=1)) == 64
    assert positions(DebertaV2Config(max_position_embeddings=40)) == 40
