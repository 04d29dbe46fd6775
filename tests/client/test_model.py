"""A client's model as `Tuned` says: what trains, from which values, beside which weights."""

import pytest
import torch
from tiny_models import batch, tiny

from leff.client.model import tune, tuned_values
from leff.models import blocks, full_tail_names, lora
from leff.models.sparse import sparse_shapes
from leff.wire.messages import Tuned

KINDS = [("gpt2", "generation"), ("deberta-v3", "classification"), ("llama", "generation")]


def everything(model):
    """Adapters in the first module, sparse values in the second, the classifier whole."""
    targets = list(lora.target_shapes(model).items())
    shapes = lora.adapter_shapes(dict(targets[:1]), 2) | sparse_shapes(dict(targets[1:2]), 1)
    return shapes | {n: tuple(model.get_parameter(n).shape) for n in full_tail_names(model)}


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_exactly_what_is_asked_for_trains(name, kind, store):
    model = tiny(name, kind)
    model.requires_grad_(True)
    shapes = everything(model)
    sent = {n: model.get_parameter(n).data for n in full_tail_names(model)}
    trained = tune(model, Tuned(shapes, store.put(sent)), store.get)
    assert {n: tuple(p.shape) for n, p in trained.items()} == shapes
    inside = {id(p) for p in model.parameters() if p.requires_grad}
    assert inside == {id(p) for p in trained.values()}
    found = model(**batch()).logits
    assert torch.isfinite(found).all()
    found.sum().backward()
    for tensor, parameter in trained.items():
        assert parameter.grad is not None and (
            parameter.grad.any() or tensor.endswith("lora_A")  # B is zero
        )


def test_values_are_those_sent_or_drawn_in_the_order_of_names(store):
    """The order that a file is read in may be any, and sums of floats depend on it."""
    sent = {"b.lora_B": torch.ones(3, 2), "classifier.bias": torch.ones(4)}
    shapes = {"b.lora_B": (3, 2), "b.lora_A": (2, 5), "classifier.bias": (4,), "a.sparse": (6,)}
    found = tuned_values(Tuned(shapes, store.put(sent), seed=7), store.get)
    assert list(found) == ["a.sparse", "b.lora_A", "b.lora_B", "classifier.bias"]
    assert found["b.lora_B"].all() and found["classifier.bias"].all()
    assert torch.equal(found["b.lora_A"], lora.fresh({"b.lora_A": (2, 5)}, 7)["b.lora_A"])
    assert not found["a.sparse"].any()


def test_merged_weights_take_the_place_of_the_models_and_products_come_on_top(store):
    model, other = tiny("gpt2", "generation"), tiny("gpt2", "generation")
    modules = [f"transformer.h.{layer}.attn.c_attn" for layer in (1, 2)]
    sent = {module: torch.randn(32, 96) for module in modules}
    parts = [store.put({f"{module}.weight": weight}) for module, weight in sent.items()]
    held = {part: dict(store.get(part)) for part in parts}  # a cache: nobody may change it
    b, a = torch.randn(96, 2), torch.randn(2, 32)
    parts.append(store.put(lora.named({modules[1]: (b, a)})))
    tune(model, Tuned({}, merged=tuple(parts)), lambda part: held.get(part) or store.get(part))
    assert torch.equal(model.get_submodule(modules[0]).weight, sent[modules[0]])
    assert torch.equal(model.get_submodule(modules[1]).weight, sent[modules[1]] + (b @ a).t())
    for part, module in zip(parts, modules, strict=False):
        assert torch.equal(held[part][f"{module}.weight"], sent[module])
    rest = "transformer.h.0.attn.c_attn"
    assert torch.equal(model.get_submodule(rest).weight, other.get_submodule(rest).weight)


def test_merged_products_are_in_the_weights_in_order_and_others_keep_theirs(store):
    model, other = tiny("gpt2", "generation"), tiny("gpt2", "generation")
    module = "transformer.h.1.attn.c_attn"
    linear = model.get_submodule(module)
    linear.weight.data = other.get_submodule(module).weight.data  # someone else holds it
    before = linear.weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    stacks = [
        {module: (torch.randn(96, r, generator=generator), torch.randn(r, 32, generator=generator))}
        for r in (3, 2)
    ]
    parts = tuple(store.put(lora.named(stack)) for stack in stacks)
    tune(model, Tuned({}, merged=parts), store.get)
    expected = before
    for stack in stacks:
        b, a = stack[module]
        expected = expected + (b @ a).t()
    assert torch.equal(linear.weight, expected)
    assert torch.equal(other.get_submodule(module).weight, before)
    assert not any(p.requires_grad for p in blocks(model).parameters())
