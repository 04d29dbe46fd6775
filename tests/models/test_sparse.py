"""Sparse updates by hand: where the values are, what they add, and what they learn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from leff.models import sparse
from leff.models.lora import adapter_shapes

SHAPE, COUNT, SEED = (6, 4), 9, 5


def holder(kind):
    model = nn.Module()
    model.inner = Conv1D(*SHAPE) if kind == "conv1d" else nn.Linear(SHAPE[1], SHAPE[0])
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.inner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    weight = model.inner.weight.detach().clone()
    return model, weight.t() if kind == "conv1d" else weight  # (out, in)


def by_hand(values):
    """The dense update, one value after another."""
    found = torch.zeros(SHAPE)
    places = sparse.positions("inner", SHAPE, len(values), SEED)
    for place, value in zip(places.tolist(), values.tolist(), strict=True):
        found[place // SHAPE[1], place % SHAPE[1]] = value
    return found


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_positions_are_different_in_range_and_in_order(outputs, inputs, data):
    count = data.draw(st.integers(0, outputs * inputs))
    found = sparse.positions("m", (outputs, inputs), count, 3).tolist()
    assert len(found) == count and found == sorted(set(found))
    assert all(0 <= place < outputs * inputs for place in found)
    assert found == sparse.positions("m", (outputs, inputs), count, 3).tolist()


def test_positions_differ_by_module_and_seed():
    draws = [sparse.positions(m, (20, 20), 40, s) for m, s in (("a", 0), ("b", 0), ("a", 1))]
    assert len({tuple(draw.tolist()) for draw in draws}) == 3


def test_every_position_is_as_likely_as_any_other():
    counts = torch.zeros(24)
    for seed in range(600):
        counts[sparse.positions("m", SHAPE, 8, seed)] += 1
    assert (counts - 200).abs().max() < 45  # 4 standard deviations


def test_there_are_as_many_values_as_an_adapter_has():
    targets = {"m": (96, 32), "little": (6, 4)}
    shapes = sparse.sparse_shapes(targets, 8)
    assert shapes["little.sparse"] == (24,)  # there are no more
    a, b = adapter_shapes(targets, 8)["m.lora_A"], adapter_shapes(targets, 8)["m.lora_B"]
    assert shapes["m.sparse"] == (a[0] * a[1] + b[0] * b[1],)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_server_and_client_put_values_in_the_same_places(kind):
    values = torch.arange(1.0, COUNT + 1)
    model, weight = holder(kind)
    expected = by_hand(values)
    assert (expected != 0).sum() == COUNT
    assert torch.equal(sparse.dense(model, "inner", values, SEED), expected)
    sparse.add_sparse(model, {"inner.sparse": values, "classifier.weight": values}, SEED)
    found = model.inner.weight.detach()
    assert torch.equal(found.t() if kind == "conv1d" else found, weight + expected)
    client, _ = holder(kind)
    trained = sparse.install(client, {"inner.sparse": values}, SEED)
    assert list(trained) == ["inner.sparse"]
    assert torch.equal(client.inner.weight, model.inner.weight)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_gradients_are_those_at_the_places(kind):
    values = torch.linspace(-1, 1, COUNT)
    client, weight = holder(kind)
    client.requires_grad_(False)
    (trained,) = sparse.install(client, {"inner.sparse": values}, SEED).values()
    x = torch.randn(3, SHAPE[1], generator=torch.Generator().manual_seed(1))
    client.inner(x).square().sum().backward()
    dense = (weight + by_hand(values)).requires_grad_()
    functional.linear(x, dense, client.inner.bias).square().sum().backward()
    assert dense.grad is not None
    places = sparse.positions("inner", SHAPE, COUNT, SEED)
    torch.testing.assert_close(trained.grad, dense.grad.reshape(-1)[places])
    trained.data.zero_()
    assert values.any()  # a copy trains
