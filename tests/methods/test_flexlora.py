"""FlexLoRA: the mean of the products, given back in each client's rank as well as can be."""

import pytest
import torch
from small_rounds import CPU, TRAINING, clients_of, fleet_of, invented, recipe, run_rounds, state_of
from tiny_models import tiny

from leff.methods.method import RoundContext
from leff.models.lora import products, target_shapes
from leff.wire.messages import Capacity
from leff.wire.tensors import pack, unpack

CASES = [("gpt2", "generation"), ("deberta-v3", "classification"), ("llama", "generation")]
EXAMPLES, ALPHA = (5, 1, 2), 16.0
REPORTS = [Capacity(client, 1, examples) for client, examples in enumerate(EXAMPLES)]


def plan(made, model, index):
    return made.plan(model, RoundContext(index, 0, TRAINING), REPORTS).jobs


def merge(made, model, index, ranks):
    """Merge made-up updates; return Σ p_i · s_i · B_i · A_i by module, in float64."""
    jobs = plan(made, model, index)
    updates = [invented(job, EXAMPLES[job.client], 10 * index + job.client) for job in jobs]
    made.merge_updates(model, updates)
    found = dict.fromkeys(target_shapes(model), 0.0)
    for update in updates:
        share = update.examples / 8 * ALPHA / ranks[update.client]
        for module, (b, a) in products(unpack(update.payload)).items():
            found[module] = found[module] + share * (b.double() @ a.double())
    return found


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("ranks", [(3, 3, 3), (1, 3, 2), (16, 1, 16)], ids=str)
def test_mean_of_the_products_and_best_approximations(ranks, name, kind, store):
    """Eckart and Young: what is left over has the norm of the singular values left out."""
    model = tiny(name, kind)
    before = state_of(model)
    made = recipe("flexlora", model, kind, store, clients__ranks=list(ranks))
    for index in (0, 1):  # the second round's update takes the place of the first's
        updates = merge(made, model, index, ranks)
    jobs = plan(made, model, 2)
    for job, rank in zip(jobs, ranks, strict=True):
        assert job.tuned.scale == ALPHA / rank
        for module, (b, a) in products(store.get(job.tuned.part)).items():
            dense = updates[module]
            given = job.tuned.scale * (b.double() @ a.double())
            u, s, vt = torch.linalg.svd(dense, full_matrices=False)
            limit = 1e-5 * s[0]
            best = (u[:, :rank] * s[:rank]) @ vt[:rank]
            torch.testing.assert_close(given, best, rtol=0, atol=float(limit))
            left_out = (dense - given).norm() - s[rank:].square().sum().sqrt()
            assert abs(left_out) < limit
            if rank >= min(dense.shape):
                assert (dense - given).norm() < limit
    for module, dense in updates.items():
        weight = before[f"{module}.weight"].double() + (dense.t() if name == "gpt2" else dense)
        found = model.get_submodule(module).weight.double()
        torch.testing.assert_close(found, weight, rtol=1e-5, atol=1e-4)


def test_a_rank_above_the_updates_holds_it_all_and_can_learn_more(store):
    """Of ranks 4, 1 and 2 the last two took part; A must not be zero where B is."""
    model = tiny(*CASES[0])
    made = recipe("flexlora", model, "generation", store, clients__ranks=[4, 1, 2])
    jobs = plan(made, model, 0)
    updates = [invented(job, EXAMPLES[job.client], job.client) for job in jobs[1:]]
    made.merge_updates(model, updates)
    one, two = (products(unpack(update.payload)) for update in updates)
    for module, (b, a) in products(store.get(plan(made, model, 1)[0].tuned.part)).items():
        dense = 1 / 3 * ALPHA / 1 * one[module][0] @ one[module][1]
        dense = dense + 2 / 3 * ALPHA / 2 * two[module][0] @ two[module][1]
        torch.testing.assert_close(ALPHA / 4 * b @ a, dense, rtol=1e-5, atol=1e-3)
        assert a.any(dim=1).all() and b[:, :3].any(dim=0).all() and not b[:, 3].any()


@pytest.mark.parametrize("ranks", [(3,), (5,)], ids=str)
def test_nothing_is_lost_where_the_rank_suffices(ranks, store, tmp_path):
    """One client trains, then does nothing: back comes what went out, to rounding."""
    model = tiny(*CASES[0])
    made = recipe("flexlora", model, "generation", store, clients__ranks=list(ranks))
    fleet = fleet_of(clients_of("generation", (6,)), (4,), store, CPU)
    run_rounds(model, made, fleet, tmp_path, 1)
    before = state_of(model)
    (job,) = made.plan(model, RoundContext(1, 0, TRAINING), [Capacity(0, 1, 6)]).jobs
    sent = store.get(job.tuned.part)
    update = invented(job, 6, 0)
    made.merge_updates(model, [type(update)(1, 0, (), 6, pack(sent))])
    for name, tensor in state_of(model).items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=1e-6)
