import pytest
import torch
from tiny_models import tiny
from torch import nn
from transformers.activations import ACT2FN, NewGELUActivation

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


def test_one_tensor_is_kept_and_not_four():
    x = torch.randn(8, requires_grad=True)
    model, kept = nn.Sequential(NewGELUActivation()), []
    for _ in range(2):
        storages = set()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, into=storages: into.add(tensor.data_ptr()) or tensor, lambda t: t
        ):
            model(x)
        kept.append(len(storages))
        fuse(model)
    assert kept == [4, 1]


def test_other_functions_stay_as_they_are():
    model = tiny("bert", "classification")
    before = list(model.modules())
    fuse(model)
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))
