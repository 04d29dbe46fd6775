"""Adapters by hand: W x + s · B · A · x in every kind of linear module, products, factors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from leff.errors import ConfigError
from leff.models import lora
from leff.models.quantised import GROUP_SCALE, SCALE, install, quantised, unpacked

OUT, IN, RANK, SCALE_OF = 6, 4, 2, 1.7


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(outputs, inputs, rank, seed=0):
    """B and A."""
    return random(outputs, rank, seed=seed), random(rank, inputs, seed=seed + 1)


def layer_of(kind, bias):
    """A layer with the one module `inner`, and its weight (out, in) as it computes with."""
    layer = nn.Module()
    layer.other = nn.Parameter(torch.zeros(1))  # peft asks the model for its device
    layer.inner = Conv1D(OUT, IN) if kind == "conv1d" else nn.Linear(IN, OUT, bias=bias)
    with torch.no_grad():
        for index, parameter in enumerate(layer.inner.parameters()):
            parameter.copy_(random(*parameter.shape, seed=10 + index))
    weight = layer.inner.weight.detach()
    if kind in ("8 bits", "4 bits"):
        tensors = quantised(layer, int(kind[0]))
        weight = unpacked(
            tensors["inner.weight"], tensors[f"inner.{SCALE if kind[0] == '8' else GROUP_SCALE}"]
        )
        install(layer, tensors, torch.device("cpu"))
    return layer, (weight.t() if kind == "conv1d" else weight).clone()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d", "8 bits", "4 bits"])
def test_the_layers_compute_and_learn_as_by_hand(kind, bias):
    if kind == "conv1d" and not bias:
        pytest.skip("it always has one")
    layer, weight = layer_of(kind, bias)
    b, a = pair(OUT, IN, RANK)
    own = layer.inner.bias.detach().clone() if bias else None
    found = lora.install(layer, {"inner.lora_A": a, "inner.lora_B": b}, SCALE_OF)
    assert list(found) == ["inner.lora_A", "inner.lora_B"]
    x, wanted = random(3, 5, IN, seed=5).requires_grad_(), random(3, 5, IN, seed=5).requires_grad_()
    hand_a, hand_b = a.clone().requires_grad_(), b.clone().requires_grad_()
    y = functional.linear(wanted, weight, own) + SCALE_OF * (wanted @ hand_a.t()) @ hand_b.t()
    output = layer.inner(x)
    torch.testing.assert_close(output, y)
    output.square().sum().backward()
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, wanted.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["inner.lora_A"].grad, hand_a.grad, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["inner.lora_B"].grad, hand_b.grad, rtol=1e-5, atol=1e-4)


def test_the_sender_keeps_its_tensors():
    layer, _ = layer_of("linear", True)
    b, a = pair(OUT, IN, RANK)
    found = lora.install(layer, {"inner.lora_A": a, "inner.lora_B": b}, 1.0)
    before = a.clone()
    found["inner.lora_A"].data.zero_()
    assert torch.equal(a, before)


def test_targets_have_the_shape_out_in():
    shapes = lora.target_shapes(tiny("gpt2", "generation"))  # its Conv1D weights are (in, out)
    assert shapes["transformer.h.0.attn.c_attn"] == (96, 32)
    assert shapes["transformer.h.3.mlp.c_proj"] == (32, 128)
    assert len(shapes) == 4 * 3
    assert lora.adapter_shapes({"m": (96, 32)}, 5) == {"m.lora_A": (5, 32), "m.lora_B": (96, 5)}


def test_a_model_without_linear_modules_is_refused(monkeypatch):
    monkeypatch.setattr(lora, "lora_modules", lambda model: [])
    with pytest.raises(ConfigError, match="has no linear module that could get adapters; use leff"):
        lora.target_shapes(tiny("gpt2", "generation"))


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_without_room_is_refused(rank):
    with pytest.raises(ConfigError, match=rf"^clients.ranks must be 1 to 4, .* got {rank}$"):
        lora.check_rank({"m": (6, 4), "n": (9, 9)}, rank, "clients.ranks")
    lora.check_rank({"m": (6, 4)}, 4, "clients.ranks")


def test_fresh_adapters_change_nothing_and_are_drawn_by_name():
    shapes = lora.adapter_shapes({"m": (6, 64), "n": (6, 64)}, 40)
    drawn = lora.fresh(shapes, 3)
    assert not drawn["m.lora_B"].any()
    a = drawn["m.lora_A"]
    assert a.abs().max() <= 1 / 8 and a.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert abs(a.mean()) < 0.01
    assert not torch.equal(a, drawn["n.lora_A"])
    assert not torch.equal(a, lora.fresh(shapes, 4)["m.lora_A"])
    assert torch.equal(a, lora.fresh({"m.lora_A": (40, 64)}, 3)["m.lora_A"])
    assert not lora.fresh({"classifier.weight": (2, 4)}, 0)["classifier.weight"].any()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_products_are_added_and_replaced(kind):
    layer, weight = layer_of(kind, True)
    old, new = pair(OUT, IN, 2, seed=1), pair(OUT, IN, 3, seed=7)
    lora.add_products(layer, {"inner": old}, 0.5)
    torch.testing.assert_close(lora.linear_weight(layer, "inner"), weight + 0.5 * old[0] @ old[1])
    lora.replace_products(layer, {"inner": old}, {"inner": new}, 0.5)
    torch.testing.assert_close(lora.linear_weight(layer, "inner"), weight + 0.5 * new[0] @ new[1])
    before = layer.inner.weight.detach().clone()
    lora.replace_products(layer, {"inner": new}, {"inner": new}, 0.5)
    assert torch.equal(layer.inner.weight, before)


def test_names_there_and_back():
    found = {"m": pair(6, 4, 2), "n.o": pair(3, 5, 1)}
    tensors = lora.named(found)
    assert set(tensors) == {"m.lora_A", "m.lora_B", "n.o.lora_A", "n.o.lora_B"}
    back = lora.products({**tensors, "classifier.weight": torch.zeros(1)})
    assert back.keys() == found.keys() and back["n.o"][0] is found["n.o"][0]
    assert all(map(lora.is_adapter, tensors)) and not lora.is_adapter("classifier.weight")


ranks = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@given(ranks, st.data())
def test_the_stacks_product_is_the_sum_of_products(given_ranks, data):
    weights = data.draw(st.lists(st.floats(0.01, 3), min_size=(n := len(given_ranks)), max_size=n))
    found = [pair(OUT, IN, rank, seed=i) for i, rank in enumerate(given_ranks)]
    parts = [(w, {"m": product}) for w, product in zip(weights, found, strict=True)]
    b, a = lora.stacked(parts)["m"]
    assert b.shape == (OUT, sum(given_ranks)) and a.shape == (sum(given_ranks), IN)
    expected = sum(w * (p.double() @ q.double()) for w, (p, q) in zip(weights, found, strict=True))
    torch.testing.assert_close(b.double() @ a.double(), expected, rtol=1e-5, atol=1e-4)
    order = data.draw(st.permutations(parts))
    b, a = lora.stacked(order)["m"]  # the order matters to rounding alone
    torch.testing.assert_close(b.double() @ a.double(), expected, rtol=1e-5, atol=1e-4)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6))
def test_weights_that_sum_to_one_keep_what_all_agree_on(examples):
    b, a = pair(OUT, IN, RANK)
    stack = lora.stacked([(n / sum(examples), {"m": (b, a)}) for n in examples])["m"]
    torch.testing.assert_close(stack[0] @ stack[1], b @ a, rtol=1e-5, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_factors_are_those_of_the_dense_svd(outputs, inputs, rank):
    b, a = pair(outputs, inputs, rank)
    u, s, vt = lora.factored((b, a))
    dense = b.double() @ a.double()
    count = min(outputs, inputs, rank)
    assert u.shape == (outputs, count) and s.shape == (count,) and vt.shape == (count, inputs)
    torch.testing.assert_close(u @ torch.diag(s) @ vt, dense)
    torch.testing.assert_close(s, torch.linalg.svdvals(dense)[:count], rtol=1e-9, atol=1e-9)
    eye = torch.eye(count, dtype=torch.float64)
    torch.testing.assert_close(u.t() @ u, eye)
    torch.testing.assert_close(vt @ vt.t(), eye)
