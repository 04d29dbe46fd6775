"""Word embeddings in 16 bits, against the same model with its embeddings rounded."""

import copy

import pytest
import torch
from small_rounds import same, state_of
from tiny_models import LAYERS, batch, tiny
from torch import nn

from leff.errors import ModelError
from leff.models import build_model, full_state, half_words, shell_state, trainable_names

CASES = [
    *((name, "generation") for name in ("gpt2", "gpt2-untied", "llama", "llama-tied")),
    *((name, "classification") for name in ("gpt2", "llama-tied", "bert", "deberta-v3")),
    ("roberta", "regression"),
]


def halved(model, kind):
    """The model built again from tensors whose words are float16."""
    state = {**full_state(model), **half_words(model, shell_state(model))}
    return build_model(model.config, kind, range(LAYERS), state).eval()


def rounded(model):
    """The model with its words rounded to float16, in fp32."""
    words = model.get_input_embeddings().weight
    words.data = words.data.half().float()
    return model


def labelled(kind):
    found = batch()
    labels = {
        "generation": found["input_ids"],
        "classification": torch.tensor([1, 0]),
        "regression": torch.tensor([0.5, -1.0]),
    }
    return {**found, "labels": labels[kind]}


def step(model, kind, autocast=False):
    """The loss, the logits and the gradients of all that trains, by name."""
    names = trainable_names(model, range(LAYERS))
    model.requires_grad_(False)
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(**labelled(kind))
    output.loss.backward()
    gradients = {n: parameters[n].grad for n in names if parameters[n].grad is not None}
    return {"loss": output.loss.detach(), "logits": output.logits.detach(), **gradients}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_loss_and_gradients_are_those_of_rounded_words(name, kind, autocast):
    half = halved(tiny(name, kind), kind)
    found = step(half, kind, autocast)
    wanted = step(rounded(tiny(name, kind)), kind, autocast)
    assert half.get_input_embeddings().weight.dtype == torch.float16
    assert half.get_input_embeddings().weight.grad is None
    assert len(found) > 2 + LAYERS and found["loss"].dtype == torch.float32
    assert found.keys() == wanted.keys()
    if autocast:
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    else:
        assert same(found, wanted)
    assert not same(found, step(tiny(name, kind), kind, autocast))  # rounding shows


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_the_words_are_halved_under_their_own_name(name, kind):
    model = tiny(name, kind)
    shell, half = shell_state(model), half_words(model, shell_state(model))
    changed = [key for key in shell if half[key].dtype != shell[key].dtype]
    assert half.keys() == shell.keys() and len(changed) == 1
    assert half[changed[0]].shape == model.get_input_embeddings().weight.shape
    assert half[changed[0]].nbytes * 2 == shell[changed[0]].nbytes
    assert model.get_input_embeddings().weight.dtype == torch.float32
    built = halved(model, kind)
    assert built.state_dict().keys() == model.state_dict().keys()
    others = {n for n, p in built.named_parameters() if p.dtype != torch.float32}
    assert others == set(changed)


@pytest.mark.parametrize(("name", "kind"), CASES[:5])
def test_a_deep_copy_is_a_model_of_its_own(name, kind):
    model = halved(tiny(name, kind), kind)
    before, copied = state_of(model), copy.deepcopy(model)
    with torch.no_grad():
        wanted = model(**batch()).logits
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(copied(**batch()).logits, wanted)
    assert same(state_of(copied), before)


@pytest.mark.parametrize("name", ["gpt2", "llama-tied"])
def test_no_wide_copy_of_tied_words_is_kept_for_the_backward_pass(name):
    model = halved(tiny(name, "generation"), "generation").requires_grad_(False)
    dict(model.named_parameters())[trainable_names(model, [])[0]].requires_grad_(True)
    words = model.get_input_embeddings().weight
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(**batch())
    alike = [t for t in kept if sorted(t.shape) == sorted(words.shape)]
    assert [t.data_ptr() for t in alike] == [words.data_ptr()]


def test_generation_says_the_same():
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for name in ("gpt2", "llama-tied", "llama"):
        half = halved(tiny(name, "generation"), "generation")
        full = rounded(tiny(name, "generation"))
        found, wanted = (m.generate(**batch(), **settings) for m in (half, full))
        assert found.shape == (2, 17) and torch.equal(found, wanted)


def test_words_beyond_float16_are_refused():
    model = tiny("gpt2", "generation")
    with torch.no_grad():
        model.transformer.wte.weight[3, 4] = -70000.0
    with pytest.raises(ModelError, match=r"transformer.wte.weight reaches 7e\+04.*32 bits"):
        half_words(model, shell_state(model))


def test_a_model_in_32_bits_is_left_alone():
    model = tiny("gpt2", "generation")
    built = build_model(model.config, "generation", range(LAYERS), full_state(model))
    assert not built.transformer.wte._forward_hooks
    assert "forward" not in vars(built.lm_head) and isinstance(built.lm_head, nn.Linear)
