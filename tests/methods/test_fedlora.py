"""FedLoRA: the mean of A and the mean of B, by hand, which is not the mean of the products."""

import torch
from small_rounds import TRAINING, invented, recipe, state_of
from tiny_models import tiny

from leff.methods.method import RoundContext
from leff.methods.sums import add_up
from leff.models.lora import products, target_shapes
from leff.wire.messages import Capacity
from leff.wire.tensors import unpack

GPT2, SCALE, EXAMPLES = ("gpt2", "generation"), 16 / 3, (5, 1, 2)
MODULE = "transformer.h.1.attn.c_attn"
REPORTS = [Capacity(client, 1, examples) for client, examples in enumerate(EXAMPLES)]


def one_round(made, model, index):
    """Merge made-up updates; return their adapters, in float64."""
    jobs = made.plan(model, RoundContext(index, 0, TRAINING), REPORTS).jobs
    updates = [invented(job, EXAMPLES[job.client], 10 * index + job.client) for job in jobs]
    made.merge(model, add_up(updates))
    found = [products(unpack(update.payload)) for update in updates]
    return [{m: (b.double(), a.double()) for m, (b, a) in own.items()} for own in found]


def mean(tensors):
    return sum(n / 8 * tensor for n, tensor in zip(EXAMPLES, tensors, strict=True))


def test_the_model_is_the_start_plus_the_product_of_the_means(store):
    model = tiny(*GPT2)
    before = state_of(model)
    made = recipe("fedlora", model, "generation", store)
    for index in (0, 1):  # the second round's adapters take the place of the first's
        found = one_round(made, model, index)
        for module in target_shapes(model):
            b, a = (mean([own[module][i] for own in found]) for i in (0, 1))
            weight = before[f"{module}.weight"].double() + SCALE * (b @ a).t()
            now = model.get_submodule(module).weight.double()
            torch.testing.assert_close(now, weight, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(made.state()[f"{module}.lora_B"].double(), b)
    targets = {f"{module}.weight" for module in target_shapes(model)}
    changed = {n for n, t in state_of(model).items() if not torch.equal(t, before[n])}
    assert changed == targets


def test_it_is_not_the_mean_of_the_products(store):
    model = tiny(*GPT2)
    before = state_of(model)[f"{MODULE}.weight"].double()
    found = one_round(recipe("fedlora", model, "generation", store), model, 0)
    exact = mean([SCALE * own[MODULE][0] @ own[MODULE][1] for own in found]).t()
    moved = model.get_submodule(MODULE).weight.double() - before
    assert (moved - exact).norm() > 0.5 * exact.norm()


def test_the_first_round_starts_from_the_model_and_all_clients_alike(store):
    model = tiny(*GPT2)
    made = recipe("fedlora", model, "generation", store)
    jobs = made.plan(model, RoundContext(0, 0, TRAINING), REPORTS).jobs
    assert len({job.tuned.part for job in jobs}) == 1 and jobs[0].tuned.scale == SCALE
    for b, a in products(store.get(jobs[0].tuned.part)).values():
        assert not b.any() and a.any()


def test_the_frozen_model_is_sent_as_it_was_at_the_start(store):
    model = tiny(*GPT2)
    made = recipe("fedlora", model, "generation", store)
    first = made.plan(model, RoundContext(0, 0, TRAINING), REPORTS).jobs[0]
    one_round(made, model, 0)
    second = made.plan(model, RoundContext(1, 0, TRAINING), REPORTS).jobs[0]
    assert (first.shell, first.tail, first.segments) == (second.shell, second.tail, second.segments)
    assert first.tuned.part != second.tuned.part
