"""Trimmed mean and median against numpy's and scipy's, and against hostile clients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean
from small_rounds import clients_of, fleet_of, make_method, run_rounds, same, state_of
from tiny_models import tiny
from torch import nn

from leff.engines.local import LocalFleet
from leff.methods import robust
from leff.methods.aggregate import Merge, merge_layers
from leff.methods.guard import Guard
from leff.methods.importance import RunningScores
from leff.methods.method import merge_round
from leff.methods.robust import cut_mean, robust_means
from leff.methods.sums import add_up
from leff.wire.messages import Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

KIND = "generation"
MEDIAN = Guard(merge="median")
values = st.floats(-1e4, 1e4, width=32)
any_value = st.floats(-(2.0**120), 2.0**120, width=32)


def trimmed(trim):
    return Guard(merge="trimmed_mean", trim=trim)


guards = st.sampled_from([MEDIAN, trimmed(0.1), trimmed(0.2), trimmed(0.25), trimmed(0.4)])


def update(client, tensors, examples=1, layers=(0,), scores=()):
    return Update(0, client, layers, examples, pack(tensors), layer_scores=scores)


def spooled(folder, updates):
    spool = Spool(folder)
    spool.open({each.client: "" for each in updates})
    for each in updates:
        spool.add(each)
    return spool


def means_of(folder, updates, guard):
    return robust_means(spooled(folder, updates).files(), guard.cut)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("updates") / "updates"


# The two means


@given(st.lists(st.lists(values, min_size=4, max_size=4), min_size=3, max_size=12))
def test_the_median_is_numpys(rows):
    stack = torch.tensor(rows, dtype=torch.float32)
    expected = np.median(stack.double().numpy(), axis=0)
    found = cut_mean(stack.t().contiguous(), MEDIAN.cut(len(rows)))
    assert found.dtype == torch.float64 and found.tolist() == expected.tolist()


@given(st.lists(st.lists(values, min_size=4, max_size=4), min_size=5, max_size=12))
def test_the_trimmed_mean_is_scipys(rows):
    stack = torch.tensor(rows, dtype=torch.float32)
    share = np.ceil(0.2 * len(rows) - 1e-9) / len(rows)  # scipy rounds down
    expected = trim_mean(stack.double().numpy(), share + 1e-9)
    found = cut_mean(stack.t().contiguous(), trimmed(0.2).cut(len(rows)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(
    ("guard", "cuts"),
    [
        (MEDIAN, {1: 1, 2: 1, 3: 1, 4: 1, 5: 2, 8: 3, 9: 4}),
        (trimmed(0.25), {1: 1, 3: 1, 4: 1, 5: 2, 8: 2, 9: 3}),
        (trimmed(0.07), {3: 1, 100: 7, 101: 8}),
        (trimmed(0.01), {3: 1}),
    ],
)
def test_how_many_are_cut(guard, cuts):
    assert {n: guard.cut(n) for n in cuts} == cuts


def test_nothing_left_is_an_error():
    with pytest.raises(ValueError, match="of 2 values, 1 cannot be cut at each end"):
        cut_mean(torch.zeros(3, 2), 1)


@given(st.lists(values, min_size=1, max_size=6), st.integers(3, 9), guards)
def test_identical_tensors_come_out_to_the_bit(numbers, clients, guard):
    tensor = torch.tensor(numbers)
    if clients > 2 * guard.cut(clients):
        found = cut_mean(tensor[:, None].repeat(1, clients), guard.cut(clients)).float()
        assert torch.equal(found.view(torch.int32), tensor.view(torch.int32))


@given(
    st.lists(values, min_size=3, max_size=9), st.lists(any_value, min_size=4, max_size=4), guards
)
def test_hostile_values_do_not_leave_the_spread_of_the_honest(honest, hostile, guard):
    """However many of the cut are hostile, whatever they send."""
    for bad in range(len(hostile) + 1):
        count = len(honest) + bad
        cut = guard.cut(count)
        if bad <= cut and count > 2 * cut:
            row = torch.tensor([hostile[:bad] + honest], dtype=torch.float32)
            assert min(honest) <= float(cut_mean(row, cut)) <= max(honest)


# From files


@pytest.mark.parametrize("stack_bytes", [1, 100, 2**25])
@pytest.mark.parametrize("guard", [MEDIAN, trimmed(0.2)])
def test_tensors_of_any_shape_by_rows(folder, monkeypatch, stack_bytes, guard):
    monkeypatch.setattr(robust, "STACK_BYTES", stack_bytes)
    rng = np.random.default_rng(0)
    shapes = {"scalar": (), "row": (5,), "matrix": (7, 3), "cube": (2, 3, 4)}
    sent = [
        {n: torch.from_numpy(rng.standard_normal(s)).float() for n, s in shapes.items()}
        for _ in range(5)
    ]
    found = means_of(folder, [update(i, tensors) for i, tensors in enumerate(sent)], guard)
    assert found.shapes == shapes
    for name, mean in found.means():
        stack = np.sort(np.stack([each[name].double().numpy() for each in sent]), axis=0)
        cut = guard.cut(5)
        np.testing.assert_allclose(mean.tensor.numpy(), stack[cut : 5 - cut].mean(0), rtol=1e-12)
        assert mean.share == 1 and tuple(mean.tensor.shape) == shapes[name]


@settings(max_examples=20)
@given(st.permutations(range(5)), guards)
def test_the_order_of_arrival_does_not_matter(folder, order, guard):
    generator = torch.Generator().manual_seed(0)
    updates = [update(i, {"a": torch.randn(6, 2, generator=generator)}, i + 1) for i in range(5)]
    one, two = (means_of(folder, own, guard) for own in (updates, [updates[i] for i in order]))
    if one.shapes:
        assert torch.equal(one.mean("a").tensor, two.mean("a").tensor)
    assert one.shapes == two.shapes and one.too_few == two.too_few


def test_examples_do_not_count(folder):
    tensors = [{"a": torch.tensor([float(i)])} for i in range(3)]
    for counts in ((1, 1, 1), (1, 1, 10**8)):
        updates = [update(i, tensors[i], n) for i, n in enumerate(counts)]
        assert means_of(folder, updates, MEDIAN).mean("a").tensor.tolist() == [1.0]


def test_shapes_must_agree(folder):
    with pytest.raises(ValueError, match=r"a is \(1,\) in one update, \(3,\) in those before"):
        means_of(folder, [update(0, {"a": torch.ones(3)}), update(1, {"a": torch.ones(1)})], MEDIAN)


# Layers, and the least number of clients


def layered():
    return nn.Sequential(*(nn.Linear(2, 1, bias=False) for _ in range(3)))


def by_layer(clients):
    """Updates of one layer each, and of the tail, which is layer 2 of `layered`."""
    return [
        update(
            client,
            {f"{layer}.weight": torch.full((1, 2), value), "2.weight": torch.full((1, 2), value)},
            layers=(layer,),
            scores=(value,),
        )
        for client, (layer, value) in enumerate(clients)
    ]


def test_a_layer_of_too_few_clients_keeps_its_bits_and_is_named(folder):
    model = layered()
    before = model[1].weight.detach().clone()
    updates = by_layer([(0, 1.0), (0, 2.0), (0, 9.0), (1, 3.0), (1, 4.0)])
    means = means_of(folder, updates, MEDIAN)
    assert means.too_few == {"1": 2} and dict(means.scores) == {0: 2.0}
    assert {name: mean.share for name, mean in means.means()} == {"0.weight": 0.6, "2.weight": 1}
    merge_layers(model, means)
    assert torch.equal(model[1].weight, before)
    assert model[0].weight.tolist() == [[2.0, 2.0]] and model[2].weight.tolist() == [[3.0, 3.0]]


def test_with_two_clients_nothing_moves(folder):
    model = layered()
    before = state_of(model)
    means = means_of(folder, by_layer([(0, 1.0), (0, 2.0)]), trimmed(0.1))
    assert means.too_few == {"tail": 2, "0": 2} and not means.shapes and not means.scores
    merge_layers(model, means)
    assert same(state_of(model), before)


def test_no_updates_give_nothing(folder):
    assert dict(means_of(folder, [], MEDIAN).means()) == {}


def test_relaxation_and_momentum_work_as_with_means(folder):
    """Where the median is the mean, the two merges give the same model and the same momentum."""
    values = [(0, 1.0), (0, 2.0), (0, 3.0), (1, 4.0), (1, 4.0), (1, 4.0)]
    updates = [
        update(client, {f"{layer}.weight": torch.full((1, 2), value)}, layers=(layer,))
        for client, (layer, value) in enumerate(values)
    ]
    one, two = layered(), layered()
    two.load_state_dict(one.state_dict())
    plain, cut = Merge(1.2, 0.9), Merge(1.2, 0.9)
    for _ in range(2):
        plain.apply(one, add_up(updates))
        cut.apply(two, means_of(folder, updates, MEDIAN))
    for name, tensor in state_of(one).items():
        torch.testing.assert_close(state_of(two)[name], tensor)
    assert plain.state().keys() == cut.state().keys()


@given(st.lists(st.floats(0, 1), min_size=3, max_size=8), st.floats(0, 1e12))
def test_a_huge_importance_does_not_leave_the_spread_of_the_honest(honest, claim):
    scores = {1: [(claim, 10**8), *((score, 1) for score in honest)]}
    found = RunningScores(3)
    found.take_in(robust.median_scores(scores))
    assert min(honest) <= found.scores()[1] <= max(honest)


# In rounds


class Hostile(LocalFleet):
    """Client 0 sends what `attack` makes of its tensors, and a huge importance."""

    attack = staticmethod(lambda tensor: tensor)

    def train(self, jobs):
        for update in super().train(jobs):
            if update.client == 0:
                tensors = {n: self.attack(t) for n, t in unpack(update.payload).items()}
                scores = tuple(1e12 for _ in update.layers)
                update = replace(update, payload=pack(tensors), layer_scores=scores)
            yield update


ATTACKS = {
    "huge": lambda t: torch.full_like(t, 1e30),
    "huge, negative": lambda t: torch.full_like(t, -1e30),
    "other sign": lambda t: -100 * t,
    "zero": torch.zeros_like,
}


@pytest.mark.parametrize("guard", [MEDIAN, trimmed(0.2)])
@pytest.mark.parametrize("attack", list(ATTACKS))
def test_one_hostile_client_of_five_stays_within_the_others(guard, attack, tmp_path):
    """Of a whole round, with checks, spool and merge: every weight is between honest ones."""
    store, model, sent = PartStore(tmp_path / "parts"), tiny("gpt2", KIND), []

    class Watched(Hostile):
        steady = True

        def train(self, jobs):
            for update in super().train(jobs):
                sent.append(update)
                yield update

    sizes = (30, 3, 4, 2, 3)  # the hostile one says that it has most of the examples
    fleet = fleet_of(clients_of(KIND, sizes), (2,) * 5, store, kind=Watched)
    fleet.attack = ATTACKS[attack]
    (record,) = run_rounds(
        model, make_method("fedavg", KIND, store), fleet, tmp_path, 1, guard=guard
    )
    assert record["failures"] == 0 and "too_few" not in record
    honest = [unpack(u.payload) for u in sent if u.client]
    found = state_of(model)
    for name in honest[0]:
        stack = torch.stack([each[name] for each in honest])
        assert (found[name] >= stack.amin(0)).all() and (found[name] <= stack.amax(0)).all()


def test_one_hostile_client_moves_a_mean(tmp_path):
    """What the guards are for, and that the attack above is one."""
    store, model = PartStore(tmp_path / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (3, 3, 4)), (2,) * 3, store, kind=Hostile)
    fleet.attack = ATTACKS["huge"]
    run_rounds(model, make_method("fedavg", KIND, store), fleet, tmp_path, 1)
    assert max(float(t.abs().max()) for t in state_of(model).values()) > 1e28


@pytest.mark.parametrize("guard", [MEDIAN, trimmed(0.2)])
def test_importance_of_hostile_clients_under_leff(guard, tmp_path):
    store, model = PartStore(tmp_path / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (9, 3, 4, 3, 3)), (4,) * 5, store, kind=Hostile)
    made = make_method("leff", KIND, store, sampling="importance", source="clients")
    records = run_rounds(model, made, fleet, tmp_path, 2, guard=guard)
    assert max(records[1]["layer_scores"]) < 1e6


def test_single_updates_cannot_be_cut(tmp_path):
    class Single:
        name = "flora"

        def merge_updates(self, model, updates):
            raise AssertionError

        begin = plan = state = load_state = merge_updates

    with pytest.raises(ValueError, match="flora needs single updates"):
        merge_round(Single(), nn.Linear(1, 1), Spool(tmp_path / "u"), MEDIAN)
