"""Layer-wise means against numpy's, and the laws of a weighted mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from leff.methods import sums
from leff.methods.aggregate import Merge, merge_layers
from leff.methods.sums import add_up, weighted_sums
from leff.wire.messages import Update
from leff.wire.tensors import one_by_one, pack, unpack

counts = st.integers(1, 10**6)
values = st.floats(-1e4, 1e4, width=32)


def bits(tensor):
    return tensor.view(torch.int32)


@given(st.lists(values, min_size=1, max_size=8), st.lists(counts, min_size=1, max_size=9))
def test_identical_inputs_come_out_to_the_bit(numbers, weights):
    tensor = torch.tensor(numbers)
    mean = weighted_sums((w, {"a": tensor.clone()}) for w in weights).mean("a").tensor
    assert torch.equal(bits(mean.to(torch.float32)), bits(tensor))


@given(st.lists(st.tuples(counts, st.lists(values, min_size=3, max_size=3)), min_size=1))
def test_equals_numpy_in_float64(updates):
    mean = weighted_sums((w, {"a": torch.tensor(x)}) for w, x in updates).mean("a").tensor
    weights = np.array([w for w, _ in updates], dtype=np.float64)
    rows = np.array([np.float32(x) for _, x in updates], dtype=np.float64)
    expected = (weights[:, None] * rows).sum(0) / weights.sum()
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-12, atol=1e-9)


@given(st.lists(counts, min_size=2, max_size=6), st.sampled_from([0.5, 2.0, 1024.0]))
def test_scale_of_the_weights_does_not_matter(weights, scale):
    tensors = [torch.linspace(-1, 1, 5) * (i + 1) for i in range(len(weights))]
    a = dict(weighted_sums((w, {"a": t}) for w, t in zip(weights, tensors, strict=True)).means())
    b = dict(
        weighted_sums((w * scale, {"a": t}) for w, t in zip(weights, tensors, strict=True)).means()
    )
    assert torch.equal(a["a"].tensor, b["a"].tensor)  # powers of two lose no bit


def test_each_tensor_has_a_sum_of_its_own():
    one, two = torch.ones(2), 4 * torch.ones(2)
    merged = dict(
        weighted_sums([(1, {"a": one, "b": one}), (2, {"b": two}), (5, {"c": two})]).means()
    )
    assert {name: mean.tensor.tolist() for name, mean in merged.items()} == {
        "a": [1, 1],
        "b": [3, 3],
        "c": [4, 4],
    }
    assert {name: mean.share for name, mean in merged.items()} == {
        "a": 1 / 8,
        "b": 3 / 8,
        "c": 5 / 8,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_left_alone(dtype):
    given_tensor = torch.tensor([0.1, 0.2], dtype=dtype)
    before = given_tensor.clone()
    for weights in ((3, 1), (1,)):
        weighted_sums((weight, {"a": given_tensor}) for weight in weights)
        assert torch.equal(given_tensor, before)


def test_no_updates_give_nothing():
    assert dict(weighted_sums([]).means()) == {}


@pytest.mark.parametrize("weight", [0, -1, float("nan")])
def test_a_weight_must_be_positive(weight):
    with pytest.raises(ValueError, match="above 0"):
        weighted_sums([(weight, {"a": torch.ones(1)})])


def test_shapes_must_agree_even_where_they_would_broadcast():
    with pytest.raises(ValueError, match=r"a is \(1,\)"):
        weighted_sums([(1, {"a": torch.ones(3)}), (1, {"a": torch.ones(1)})])


def update(client, examples, tensors):
    return Update(0, client, (0,), examples, pack(tensors))


@settings(max_examples=20)
@given(st.permutations(range(3)))
def test_merge_puts_means_in_and_leaves_the_rest(order):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    updates = [update(i, i + 1, {"0.weight": torch.full((2, 2), float(i))}) for i in range(3)]
    merge_layers(model, add_up([updates[i] for i in order]))
    expected = torch.full((2, 2), (0 * 1 + 1 * 2 + 2 * 3) / 6)
    torch.testing.assert_close(model[0].weight.data, expected)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(model.state_dict()[name], before[name])


def test_merge_refuses_a_tensor_of_another_shape():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match=r"weight is \(1, 2\)"):
        merge_layers(model, add_up([update(0, 1, {"weight": torch.zeros(1, 2)})]))
    assert torch.equal(model.weight, before)


def test_merge_refuses_a_tensor_that_the_model_does_not_have():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="elsewhere"):
        tensors = {"weight": torch.zeros(2, 2), "elsewhere": torch.zeros(1)}
        merge_layers(model, add_up([update(0, 1, tensors)]))
    assert torch.equal(model.weight, before)


# A limited step


def layered(numbers=(0.3, -0.7, 0.0)):
    """A model of three layers of three weights each, and no biases."""
    model = nn.Sequential(*(nn.Linear(3, 1, bias=False) for _ in range(3)))
    with torch.no_grad():
        for index, layer in enumerate(model):
            layer.weight.copy_(torch.tensor([numbers]) * (index + 1))
    return model


def weights_of(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def exactly(a, b):
    return a.keys() == b.keys() and all(torch.equal(bits(a[n]), bits(b[n])) for n in a)


# Layer 2 is the tail, which everybody trains; each client trains one of the others as well.
rows = st.lists(values, min_size=3, max_size=3)
clients = st.lists(st.tuples(counts, st.integers(0, 1), rows, rows), min_size=1, max_size=5)
relaxations = st.sampled_from([0.1, 0.5, 1.0, 1.7, 4.0])


def updates_of(cases):
    return [
        update(
            client,
            examples,
            {f"{layer}.weight": torch.tensor([own]), "2.weight": torch.tensor([tail])},
        )
        for client, (examples, layer, own, tail) in enumerate(cases)
    ]


@given(clients)
def test_relaxation_of_one_is_the_mean_of_the_full_models(cases):
    model, updates = layered(), updates_of(cases)
    before = weights_of(model)
    full = [(u.examples, {**before, **unpack(u.payload)}) for u in updates]
    expected = {name: mean.tensor for name, mean in weighted_sums(full).means()}
    merge_layers(model, add_up(updates), relaxation=1.0)
    for name, found in weights_of(model).items():
        torch.testing.assert_close(found, expected[name].float(), rtol=1e-6, atol=1e-6)


@given(clients, relaxations)
def test_the_step_is_bounded_and_the_tail_and_the_untouched_are_exact(cases, relaxation):
    model, paper, updates = layered(), layered(), updates_of(cases)
    before = weights_of(model)
    merge_layers(paper, add_up(updates))
    merge_layers(model, add_up(iter(updates)), relaxation)
    means, found = weights_of(paper), weights_of(model)
    total = sum(u.examples for u in updates)
    for layer, name in enumerate(before):
        trained = sum(
            u.examples for u, case in zip(updates, cases, strict=True) if case[1] == layer
        )
        share = 1.0 if layer == 2 else trained / total
        step = min(1, relaxation * share)
        if not share:
            assert torch.equal(bits(found[name]), bits(before[name]))
        elif step == 1:
            assert torch.equal(bits(found[name]), bits(means[name]))
        else:
            moved, whole = (found[name] - before[name]).double(), (means[name] - before[name])
            torch.testing.assert_close(moved, step * whole.double(), rtol=1e-4, atol=1e-3)
            assert (moved.abs() <= step * whole.abs() * (1 + 1e-5) + 1e-3).all()


@given(st.lists(counts, min_size=1, max_size=50), st.data())
def test_a_relaxation_of_one_over_the_share_is_the_papers_merge(weights, data):
    trained = data.draw(st.integers(1, len(weights)))
    model, paper = layered(), layered()
    updates = [
        update(i, n, {"0.weight": torch.full((1, 3), 0.1 * i)} if i < trained else {})
        for i, n in enumerate(weights)
    ]
    merge_layers(paper, add_up(updates))
    merge_layers(model, add_up(updates), 1 / (sum(weights[:trained]) / sum(weights)))
    assert exactly(weights_of(model), weights_of(paper))


@given(st.permutations(range(4)), relaxations)
def test_the_order_of_arrival_does_not_matter(order, relaxation):
    tensors = [torch.randn(1, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    updates = [update(i, 7 * i + 3, {f"{i % 2}.weight": tensors[i]}) for i in range(4)]
    one, two, unsorted = layered(), layered(), layered()
    arrived = [updates[i] for i in order]
    merge_layers(one, add_up(updates), relaxation)
    merge_layers(two, add_up(sorted(arrived, key=lambda u: u.client)), relaxation)
    merge_layers(unsorted, add_up(arrived), relaxation)
    assert exactly(weights_of(one), weights_of(two))
    for name, found in weights_of(unsorted).items():
        torch.testing.assert_close(found, weights_of(one)[name])


@given(rows, st.lists(counts, min_size=2, max_size=6), relaxations)
def test_without_local_change_a_relaxed_merge_keeps_every_bit(numbers, weights, relaxation):
    model = layered(tuple(numbers))
    before = weights_of(model)
    names = list(before)
    updates = [update(i, n, {names[i % 3]: before[names[i % 3]]}) for i, n in enumerate(weights)]
    merge_layers(model, add_up(updates), relaxation)
    assert exactly(weights_of(model), before)  # zeros' signs too


@given(st.lists(st.floats(0.05, 1), min_size=2, max_size=4), st.integers(0, 99))
def test_relaxed_blocks_do_not_overshoot_where_the_papers_do(steps, seed):
    """A convex loss of all weights' sum: each client's block alone goes to the minimum."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in steps))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randn(1, 1, generator=generator))

    def loss(weights):
        return float(torch.stack([w.double() for w in weights.values()]).sum() - 3) ** 2

    before, updates, alone = weights_of(model), [], []
    for index, (name, step) in enumerate(zip(before, steps, strict=True)):
        residual = 3 - sum(float(w) for w in before.values())
        trained = {name: before[name] + step * residual}
        updates.append(update(index, index + 1, trained))
        alone.append((index + 1, loss({**before, **trained})))
    merge_layers(model, add_up(updates), relaxation=1.0)
    average = sum(n * value for n, value in alone) / sum(n for n, _ in alone)
    assert loss(weights_of(model)) <= average + 1e-5


@pytest.mark.parametrize("relaxation", [0, -1.0, float("nan")])
def test_a_relaxation_must_be_positive(relaxation):
    with pytest.raises(ValueError, match="relaxation must be above 0"):
        merge_layers(layered(), add_up([]), relaxation)


# Momentum


@given(st.lists(clients, min_size=1, max_size=3), st.sampled_from([None, 0.5, 1.0]))
def test_no_momentum_is_the_plain_merge(rounds, relaxation):
    plain, model = layered(), layered()
    merge = Merge(relaxation, momentum=0.0)
    for cases in rounds:
        merge_layers(plain, add_up(updates_of(cases)), relaxation)
        merge.apply(model, add_up(updates_of(cases)))
    assert exactly(weights_of(model), weights_of(plain)) and merge.state() == {}


@pytest.mark.parametrize("relaxation", [None, 0.7])
def test_momentum_is_torchs_sgd_on_the_steps(relaxation):
    """Hsu et al.: the server is SGD with momentum, whose gradient is minus the step."""
    model, plain = layered(), layered()
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9)
    merge, generator = Merge(relaxation, momentum=0.9), torch.Generator().manual_seed(0)
    for _ in range(4):
        tensors = {n: torch.randn(1, 3, generator=generator) for n in weights_of(model)}
        merge.apply(model, add_up([update(0, 5, tensors)]))
        for name, parameter in plain.named_parameters():
            parameter.grad = -(relaxation or 1.0) * (tensors[name] - parameter.detach())
        optimizer.step()
    for name, expected in weights_of(plain).items():
        torch.testing.assert_close(weights_of(model)[name], expected, rtol=1e-5, atol=1e-5)


def test_a_tensor_that_nobody_trains_keeps_its_bits_and_its_momentum():
    model, merge = layered(), Merge(momentum=0.9)
    merge.apply(
        model, add_up([update(0, 1, {name: torch.ones(1, 3) for name in weights_of(model)})])
    )
    before, velocity = weights_of(model), merge.state()
    merge.apply(model, add_up([update(0, 1, {"1.weight": torch.ones(1, 3)})]))
    after, later = weights_of(model), merge.state()
    for name in ("0.weight", "2.weight"):
        assert torch.equal(bits(after[name]), bits(before[name]))
        assert torch.equal(bits(later[name]), bits(velocity[name]))
    torch.testing.assert_close(after["1.weight"], 1 + 0.9 * velocity["1.weight"])
    assert not torch.equal(later["1.weight"], velocity["1.weight"])


@given(st.lists(clients, min_size=2, max_size=3))
def test_momentum_goes_on_exactly_after_a_restart(rounds):
    model, merge = layered(), Merge(1.0, 0.9)
    for cases in rounds[:-1]:
        merge.apply(model, add_up(updates_of(cases)))
    resumed, other = layered(), Merge(1.0, 0.9)
    resumed.load_state_dict(weights_of(model))
    other.load_state(unpack(pack(merge.state())))
    merge.apply(model, add_up(updates_of(rounds[-1])))
    other.apply(resumed, add_up(updates_of(rounds[-1])))
    assert exactly(weights_of(model), weights_of(resumed))
    assert exactly(merge.state(), other.state())


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_does_not_fade_is_refused(momentum):
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1"):
        Merge(momentum=momentum)


def test_nothing_is_read_before_it_is_asked_for(tmp_path, monkeypatch):
    """A round may train every layer, and the sums of all would be twice the model."""
    sent = []
    for client, name in enumerate("aab"):
        path = tmp_path / f"{client}.safetensors"
        path.write_bytes(pack({name: torch.full((2,), float(client)), "tail": torch.ones(1)}))
        sent.append(replace(update(client, 1 + client, {}), payload=path))
    read = []
    monkeypatch.setattr(
        sums, "one_by_one", lambda own: lambda name: read.append(name) or one_by_one(own)(name)
    )
    means = add_up(sent)
    assert read == [] and means.shapes == {"a": (2,), "b": (2,), "tail": (1,)}
    mean = means.mean("a")
    assert read == ["a", "a"] and mean.tensor.tolist() == [2 / 3, 2 / 3] and mean.share == 0.5
    assert [name for name, _ in means.means()] == ["a", "tail", "b"]
