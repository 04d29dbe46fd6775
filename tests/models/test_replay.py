"""Layers run alone against the same layers in the full model's forward."""

import copy

import pytest
import torch
from tiny_models import CASES, LAYERS, batch, tiny
from torch import nn

from leff.errors import ModelError
from leff.models import blocks, capture, eager_attention, run_blocks


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_replay_equals_the_forward(name, kind):
    model = tiny(name, kind)
    trace = capture(model, {**batch(), "labels": torch.zeros(2)})
    assert len(trace.hidden) == LAYERS + 1 and trace.hidden[0].shape == (2, 9, 32)
    for start, stop in [(0, LAYERS), (0, 1), (1, 3), (3, 4)]:
        part = blocks(model)[start:stop]
        with torch.no_grad():
            hidden, maps = run_blocks(part, trace.hidden[start], trace, range(start, stop))
        assert torch.equal(hidden, trace.hidden[stop])
        assert maps == []


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_hidden_states_equal_the_library(name, kind):
    model = tiny(name, kind)
    trace = capture(model, batch())
    with torch.no_grad():
        wanted = model(**batch(), output_hidden_states=True).hidden_states
    for layer in range(LAYERS):  # the library's last one is after the final norm
        assert torch.equal(trace.hidden[layer], wanted[layer])


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_maps_equal_the_library(name, kind):
    model = tiny(name, kind)
    with eager_attention(model), torch.no_grad():
        trace = capture(model, batch(), attention=True)
        _, maps = run_blocks(blocks(model), trace.hidden[0], trace, range(LAYERS), attention=True)
        wanted = model(**batch(), output_attentions=True).attentions
    assert len(maps) == len(trace.maps) == LAYERS
    for captured, replayed, library in zip(trace.maps, maps, wanted, strict=True):
        assert captured.shape == (2, 4, 9, 9)
        assert torch.equal(captured, replayed)
        torch.testing.assert_close(captured, library, rtol=0, atol=1e-6)
        torch.testing.assert_close(captured[0].sum(-1), torch.ones(4, 9))


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_each_layer_has_its_own_mask(name):
    model = tiny(name, "generation")  # layers 2 and 3 look back three tokens only
    trace = capture(model, batch())
    with torch.no_grad():
        wrong, _ = run_blocks(blocks(model)[2:], trace.hidden[2], trace, [0, 0])
    assert (wrong - trace.hidden[4]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "deberta-v3", "bert", "roberta"])
def test_students_learn_through_a_replay(name):
    model = tiny(name, "classification")
    student = nn.ModuleList([copy.deepcopy(blocks(model)[2])])
    with eager_attention(model, student):
        trace = capture(model, batch(), attention=True)
        hidden, maps = run_blocks(student, trace.hidden[1], trace, [2], attention=True)
        (hidden.square().mean() + maps[0].square().mean()).backward()
    grads = [p.grad for p in student.parameters()]
    assert any(g is not None and g.abs().sum() > 0 for g in grads)
    assert all(p.grad is None for p in model.parameters())


def test_a_student_may_open_the_model():
    model = tiny("deberta-v2-conv", "classification")
    trace = capture(model, batch())
    layer = blocks(model)[1:2]
    with torch.no_grad():
        inside, _ = run_blocks(layer, trace.hidden[0], trace, [1])
        opening, _ = run_blocks(layer, trace.hidden[0], trace, [1], first=True)
    assert trace.after_first is not None
    assert torch.equal(opening, trace.after_first(inside))
    assert not torch.equal(opening, inside)


def test_gradients_on_request():
    model = tiny("llama", "generation")
    assert not capture(model, batch()).hidden[-1].requires_grad
    assert capture(model, batch(), gradients=True).hidden[-1].requires_grad


def test_hooks_and_attention_are_put_back():
    model = tiny("gpt2", "generation")
    before = model.config._attn_implementation
    assert before == "sdpa"
    with pytest.raises(RuntimeError, match="stop"), eager_attention(model):
        assert model.config._attn_implementation == "eager"
        capture(model, batch(), attention=True)
        raise RuntimeError("stop")
    assert model.config._attn_implementation == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_maps_need_eager_attention(name):
    with pytest.raises(ModelError, match="eager_attention"):
        capture(tiny(name, "classification"), batch(), attention=True)


def test_a_model_that_does_more_between_layers_is_refused():
    model = tiny("bert", "classification")

    def meddle(module, args, kwargs):
        return (args[0] + 1, *args[1:]), kwargs

    blocks(model)[2].register_forward_pre_hook(meddle, with_kwargs=True)
    with pytest.raises(ModelError, match="between layers 1 and 2"):
        capture(model, batch())
