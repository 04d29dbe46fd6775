"""FLoRA: the model moves by exactly Σ p_i · s_i · B_i · A_i, and clients follow it to the bit."""

import pytest
import torch
from small_rounds import CPU, TRAINING, invented, recipe, same, state_of
from tiny_models import tiny

from leff.client.model import client_model, tune
from leff.methods.method import RoundContext
from leff.models.lora import products, target_shapes
from leff.wire.messages import Capacity
from leff.wire.tensors import unpack

CASES = [("gpt2", "generation"), ("deberta-v3", "classification"), ("llama", "generation")]
RANKS, EXAMPLES, ALPHA = (1, 3, 2), (5, 1, 2), 16.0
REPORTS = [Capacity(client, 1, examples) for client, examples in enumerate(EXAMPLES)]


def plan(made, model, index, reports=REPORTS):
    return made.plan(model, RoundContext(index, 0, TRAINING), reports).jobs


def merge(made, model, index, reports=REPORTS):
    """Merge made-up updates; return Σ p_i · s_i · B_i · A_i by module, in float64."""
    jobs = plan(made, model, index, reports)
    updates = [invented(job, EXAMPLES[job.client], 10 * index + job.client) for job in jobs]
    made.merge_updates(model, updates)
    total = sum(update.examples for update in updates)
    moved = dict.fromkeys(target_shapes(model), 0.0)
    for update in updates:
        share = update.examples / total * ALPHA / RANKS[update.client]
        for module, (b, a) in products(unpack(update.payload)).items():
            assert a.shape[0] == RANKS[update.client]
            moved[module] = moved[module] + share * (b.double() @ a.double())
    return moved


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_model_moves_by_the_mean_of_the_products(name, kind, store):
    model = tiny(name, kind)
    expected = {n: t.double() for n, t in state_of(model).items()}
    made = recipe("flora", model, kind, store, clients__ranks=list(RANKS))
    for index, reports in ((0, REPORTS), (1, REPORTS[1:])):
        for module, update in merge(made, model, index, reports).items():
            weight = expected[f"{module}.weight"]
            weight += update.t() if name == "gpt2" else update  # Conv1D is (in, out)
    for module in target_shapes(model):
        found = model.get_submodule(module).weight.double()
        torch.testing.assert_close(found, expected[f"{module}.weight"], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_clients_have_the_servers_weights_to_the_bit(name, kind, store):
    model = tiny(name, kind)
    made = recipe("flora", model, kind, store, clients__ranks=list(RANKS))
    for index in (0, 1, 2):
        merge(made, model, index)
    for job in plan(made, model, 3):
        client = client_model(job, store.get, CPU)
        trained = tune(client, job.tuned, store.get)
        adapters = {id(p) for n, p in trained.items() if "lora_" in n}
        found = {
            n.replace(".base_layer", ""): p.detach()
            for n, p in client.named_parameters()
            if id(p) not in adapters
        }
        assert same(found, {n: p.detach() for n, p in model.named_parameters()})
        assert not any(p.any() for n, p in trained.items() if n.endswith("lora_B"))


def test_every_client_and_round_draws_its_own_adapter(store):
    model = tiny(*CASES[0])
    made = recipe("flora", model, "generation", store)
    seeds = [job.tuned.seed for index in (0, 1) for job in plan(made, model, index)]
    assert len(set(seeds)) == 6
    assert seeds[:3] == [job.tuned.seed for job in plan(made, model, 0)]


def test_the_download_grows_with_the_clients_that_took_part(store):
    model = tiny(*CASES[0])
    made = recipe("flora", model, "generation", store, clients__ranks=list(RANKS))
    assert plan(made, model, 0)[0].tuned.merged == ()
    merge(made, model, 0, REPORTS[1:])
    (stack,) = plan(made, model, 1)[0].tuned.merged
    assert {a.shape[0] for _, a in products(store.get(stack)).values()} == {3 + 2}
