"""SLoRA: sparse means, the best adapters for what they add up to, then FedLoRA."""

import pytest
import torch
from small_rounds import TRAINING, invented, recipe, state_of
from tiny_models import tiny

from leff.errors import ConfigError
from leff.methods.method import RoundContext
from leff.methods.sums import add_up
from leff.models.lora import products, target_shapes
from leff.models.sparse import positions
from leff.wire.messages import Capacity
from leff.wire.tensors import unpack

CASES = [("gpt2", "generation"), ("deberta-v3", "classification"), ("llama", "generation")]
EXAMPLES, SCALE, RANK = (5, 1, 2), 16 / 3, 3
REPORTS = [Capacity(client, 1, examples) for client, examples in enumerate(EXAMPLES)]


def start(name, kind, store, rounds=3, share=0.6):
    model = tiny(name, kind)
    given = {"training__rounds": rounds, "method__sparse_share": share}
    return model, recipe("slora", model, kind, store, **given)


def merge(made, model, index):
    """Merge made-up updates; return the stage and the means of their tensors, in float64."""
    plan = made.plan(model, RoundContext(index, 0, TRAINING), REPORTS)
    updates = [invented(job, EXAMPLES[job.client], 10 * index + job.client) for job in plan.jobs]
    made.merge(model, add_up(updates))
    tensors = [unpack(update.payload) for update in updates]
    weighed = list(zip(EXAMPLES, tensors, strict=True))
    means = {name: sum(n / 8 * own[name].double() for n, own in weighed) for name in tensors[0]}
    return plan.facts["slora_stage"], means


def weight_of(model, module):
    weight = model.get_submodule(module).weight.detach().double()
    return weight.t() if hasattr(model.get_submodule(module), "nf") else weight  # Conv1D


def dense(values, module, shape):
    flat = torch.zeros(shape[0] * shape[1], dtype=torch.float64)
    flat[positions(module, shape, len(values), 0)] = values
    return flat.view(shape)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_stages_by_hand(name, kind, store):
    """Two sparse rounds, of which the last turns to adapters, and one of FedLoRA."""
    model, made = start(name, kind, store)
    before = {module: weight_of(model, module) for module in target_shapes(model)}
    shapes = target_shapes(model)

    stage, means = merge(made, model, 0)
    assert stage == 1 and all(name.endswith(".sparse") for name in made.state())
    for module, shape in shapes.items():
        update = dense(means[f"{module}.sparse"], module, shape)
        torch.testing.assert_close(
            weight_of(model, module), before[module] + update, rtol=1e-5, atol=1e-5
        )

    stage, means = merge(made, model, 1)
    assert stage == 1 and set(products(made.state())) == set(shapes)
    for module, shape in shapes.items():
        u, s, vt = torch.linalg.svd(dense(means[f"{module}.sparse"], module, shape))
        best = (u[:, :RANK] * s[:RANK]) @ vt[:RANK]
        moved = weight_of(model, module) - before[module]
        torch.testing.assert_close(moved, best, rtol=0, atol=1e-5)
        b, a = (factor.double() for factor in products(made.state())[module])
        torch.testing.assert_close(SCALE * (b @ a), best, rtol=0, atol=1e-5)

    stage, means = merge(made, model, 2)
    assert stage == 2
    for module, (b, a) in products(means).items():
        expected = before[module] + SCALE * (b @ a)
        torch.testing.assert_close(weight_of(model, module), expected, rtol=1e-5, atol=1e-4)
    classifier = {n: t for n, t in means.items() if n.startswith("classifier")}
    assert bool(classifier) == (kind == "classification")
    for tensor, mean in classifier.items():
        torch.testing.assert_close(model.get_parameter(tensor).double(), mean)


def test_only_the_places_of_the_mask_change_in_stage_one(store):
    model, made = start(*CASES[0], store)
    before, shapes = state_of(model), target_shapes(model)
    merge(made, model, 0)
    masks = set()
    for module, shape in shapes.items():
        moved = (model.get_submodule(module).weight - before[f"{module}.weight"]).t()
        found = tuple(moved.reshape(-1).nonzero().flatten().tolist())
        assert len(found) == min(RANK * sum(shape), shape[0] * shape[1])
        masks.add((shape, found))
    assert len(masks) == len(shapes)
    changed = {n for n, t in state_of(model).items() if not torch.equal(t, before[n])}
    assert changed == {f"{module}.weight" for module in shapes}


def test_clients_are_told_the_servers_seed(store):
    model, made = start(*CASES[0], store)
    jobs = made.plan(model, RoundContext(0, 0, TRAINING), REPORTS).jobs
    assert {job.tuned.seed for job in jobs} == {0} and len({job.tuned.part for job in jobs}) == 1


@pytest.mark.parametrize(
    ("rounds", "share", "sparse"), [(2, 1.0, 1), (3, 0.01, 1), (8, 0.25, 2), (20, 0.25, 5)]
)
def test_both_stages_have_a_round_at_least(rounds, share, sparse, store):
    model, made = start(*CASES[0], store, rounds, share)
    stages = []
    for index in range(rounds):
        plan = made.plan(model, RoundContext(index, 0, TRAINING), REPORTS[:1])
        stages.append(plan.facts["slora_stage"])
    assert stages == [1] * sparse + [2] * (rounds - sparse)


def test_one_round_is_too_few(store):
    with pytest.raises(ConfigError, match=r"two stages, so training.rounds must be at least 2"):
        start(*CASES[0], store, rounds=1)
