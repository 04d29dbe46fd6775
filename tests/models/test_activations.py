import copy

import pytest
import torch
from tiny_models import tiny
from torch import nn
from transformers import LlamaConfig
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from leff.models.activations import fuse


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_the_function_and_its_gradient_stay(name):
    model = nn.Sequential(ACT2FN[name])
    x = torch.linspace(-6, 6, 1001, requires_grad=True)
    expected = model(x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    fuse(model)
    assert type(model[0]) is nn.GELU
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*torch.autograd.grad(found.sum(), x), slope, rtol=1e-5, atol=1e-5)


def kept(model, x):
    """How many tensors the forward pass keeps for the backward pass."""
    storages = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: storages.add(tensor.data_ptr()) or tensor, lambda t: t
    ):
        model(x)
    return len(storages)


def before_and_after(model, x):
    before = kept(model, x)
    fuse(model)
    return before, kept(model, x)


def test_one_tensor_is_kept_and_not_four():
    x = torch.randn(8, requires_grad=True)
    assert before_and_after(nn.Sequential(NewGELUActivation()), x) == (4, 1)


# Llama's gate

SIZES = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}


def learned(mlp, x, half=False):
    """What a pass gives: its output, and all gradients."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        out = mlp(x)
    return [out, *torch.autograd.grad(out.float().square().sum(), [x, *mlp.parameters()])]


def an_mlp(kind=LlamaMLP, act="silu"):
    return kind(LlamaConfig(**SIZES, hidden_act=act))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", [LlamaMLP, Qwen2MLP])
def test_the_gate_gives_the_same_bits(kind, half):
    mlp, x = an_mlp(kind), torch.randn(3, 5, 8)
    fuse(mlp)
    found = learned(mlp, x, half)
    del mlp.forward
    assert all(map(torch.equal, found, learned(mlp, x, half)))


def test_two_tensors_are_kept_and_not_three():
    mlp = an_mlp().requires_grad_(False)
    weights = 3
    found = before_and_after(mlp, torch.randn(5, 8, requires_grad=True))
    assert found == (weights + 3, weights + 2)


def test_nothing_is_kept_where_nothing_trains():
    mlp = an_mlp().requires_grad_(False)
    assert before_and_after(mlp, torch.randn(5, 8)) == (0, 0)


def test_a_copy_has_its_own_gate():
    mlp, x = an_mlp(), torch.randn(5, 8)
    fuse(mlp)
    copied = copy.deepcopy(mlp)
    with torch.no_grad():
        copied.gate_proj.weight.zero_()
    assert mlp(x).any() and not copied(x).any()


class Clamped(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=0.1) * self.up_proj(x))


class Swapped(LlamaMLP):
    def forward(self, x):
        down_proj = self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))
        return down_proj  # noqa: RET504  # instructions as in Llama's, names apart


@pytest.mark.parametrize(
    ("kind", "act"), [(Clamped, "silu"), (Swapped, "silu"), (LlamaMLP, "relu")]
)
def test_another_gate_stays_as_it_is(kind, act):
    mlp, x = an_mlp(kind, act), torch.randn(5, 8)
    before = learned(mlp, x)
    fuse(mlp)
    assert "forward" not in vars(mlp)
    assert all(map(torch.equal, before, learned(mlp, x)))


def test_other_functions_stay_as_they_are():
    model = tiny("bert", "classification")
    before = list(model.modules())
    fuse(model)
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))
