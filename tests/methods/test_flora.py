"""FLoRA: the model moves by exactly Σ p_i · s_i · B_i · A_i, and clients follow it to the bit."""

import pytest
import torch
from small_rounds import (
    CPU,
    TRAINING,
    clients_of,
    fleet_of,
    invented,
    recipe,
    run_rounds,
    same,
    state_of,
)
from tiny_models import tiny

from leff.client.model import client_model, tune
from leff.methods.method import RoundContext
from leff.models.lora import products, target_shapes
from leff.wire.holdings import Holdings
from leff.wire.messages import Capacity
from leff.wire.parts import PartStore
from leff.wire.tensors import pack, unpack

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


def dense_bytes(model):
    return sum(4 * outputs * inputs for outputs, inputs in target_shapes(model).values())


def test_stacks_are_folded_when_they_outweigh_the_weights(store):
    model = tiny(*CASES[0])
    made = recipe("flora", model, "generation", store, clients__ranks=list(RANKS))
    stack = 4 * sum(sum(RANKS) * sum(shape) for shape in target_shapes(model).values())
    most = dense_bytes(model) // stack
    assert most > 1
    for index in range(2 * most + 3):
        merge(made, model, index)
        since, folded = (index + 1) % (most + 1), index >= most
        kept = made.state()
        assert {name.partition("/")[0] for name in kept} == {
            *map(str, range(since)),
            *(("folded",) if folded else ()),
        }
        assert sum(t.nbytes for t in kept.values()) == since * stack + folded * dense_bytes(model)


def merges_till_folded(made, model):
    index = 0
    while not any(name.startswith("folded") for name in made.state()):
        merge(made, model, index)
        index += 1
    return index


def check_client(job, model, store):
    """A client's frozen weights are the server's, to the bit."""
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


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_clients_have_the_servers_weights_to_the_bit(name, kind, store):
    """Before a fold, right after one, and with stacks after one."""
    model = tiny(name, kind)
    made = recipe("flora", model, kind, store, clients__ranks=list(RANKS))
    merge(made, model, 0)
    merge(made, model, 1)
    check_client(plan(made, model, 2)[0], model, store)
    index = merges_till_folded(made, model)
    for job in plan(made, model, index):
        check_client(job, model, store)
    merge(made, model, index)
    check_client(plan(made, model, index + 1)[1], model, store)


@pytest.mark.parametrize("later", [0, 1])
def test_a_restart_after_a_fold_writes_the_same_jobs(store, later):
    model, fresh = tiny(*CASES[0]), tiny(*CASES[0])
    made, resumed = (
        recipe("flora", each, "generation", store, clients__ranks=list(RANKS))
        for each in (model, fresh)
    )
    index = merges_till_folded(made, model)
    for more in range(later):
        merge(made, model, index + more)
    fresh.load_state_dict(model.state_dict())
    resumed.load_state(unpack(pack(made.state())))
    assert plan(resumed, fresh, 9) == plan(made, model, 9)
    assert same(resumed.state(), made.state())


def test_a_round_costs_the_same_however_many_came_before(tmp_path):
    """Bytes of a client that always takes part, and of one that is new in the last round."""
    store, model = PartStore(tmp_path / "parts"), tiny(*CASES[0])
    made = recipe("flora", model, "generation", store, clients__ranks=list(RANKS))
    fleet = fleet_of(clients_of("generation", (5, 5, 5)), (4, 4, 4), store, CPU)
    records = run_rounds(model, made, fleet, tmp_path, 12)
    own = [record["clients"][0]["download_bytes"] for record in records]
    stack = 4 * sum(sum(RANKS) * sum(shape) for shape in target_shapes(model).values())
    header = 4000
    cycle = dense_bytes(model) // stack + 1
    for index, sent in enumerate(own[1:], 1):
        expected = stack if index % cycle else dense_bytes(model)
        assert expected <= sent < expected + header
    late = Holdings().missing(plan(made, model, 12)[0])
    new = sum(part.size_bytes for part in late.values())
    assert new < own[0] + 2 * dense_bytes(model) + 2 * header


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
