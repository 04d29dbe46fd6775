"""The norm bound and the cap of one client's weight, under every method."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import clients_of, fleet_of, recipe, run_rounds, same, state_of
from tiny_models import tiny

from leff.engines.local import LocalFleet
from leff.methods import guard as guards
from leff.methods.guard import Guard, clipped, most_examples, weighed
from leff.methods.sums import add_up
from leff.wire.messages import Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import pack, unpack

KIND = "generation"
METHODS = ["leff", "fedavg", "fedbitfit", "fedlora", "slora", "flora", "flexlora"]
values = st.floats(-(2.0**100), 2.0**100, width=32)
rows = st.lists(values, min_size=3, max_size=3)


def update(tensors):
    return Update(0, 1, (0,), 5, pack(tensors))


SCRATCH = Path(tempfile.mkdtemp()) / "clipped"


def distance(tensors, start):
    moved = [tensors[n].double() - start[n].double() for n in tensors]
    return math.sqrt(sum(float(each.square().sum()) for each in moved))


# The norm


@given(rows, rows, rows, rows)
def test_the_norm_is_over_all_tensors_together(a, b, first, second):
    sent = {"a": torch.tensor(a), "b": torch.tensor([b])}
    start = {"a": torch.tensor(first), "b": torch.tensor([second])}
    found = clipped(update(sent), start, 0.0, SCRATCH)
    assert found.norm == pytest.approx(distance(sent, start), rel=1e-12)
    assert not found.clipped and same(unpack(found.payload), sent)


@given(
    rows,
    st.sampled_from([1e-3, 1.0, 1e3]),
    st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3),
)
def test_a_clipped_difference_keeps_its_direction_and_has_the_norm(sent, most, start):
    sent, first = {"a": torch.tensor(sent)}, {"a": torch.tensor(start)}
    found, norm = clipped(update(sent), first, most, SCRATCH), distance(sent, first)
    moved = unpack(found.payload)
    assert found.norm == pytest.approx(norm) and found.clipped == (found.norm > most)
    if not found.clipped:
        assert same(moved, sent)
        return
    expected = first["a"].double() + (sent["a"].double() - first["a"].double()) * (most / norm)
    assert torch.equal(moved["a"], expected.float())
    assert distance(moved, first) <= most * (1 + 1e-6) + 1e-6  # rounding to fp32 adds a little


def test_pieces_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    sent, start = (
        {"a": torch.randn(7, 5, generator=generator), "b": torch.randn((), generator=generator)}
        for _ in range(2)
    )
    whole = clipped(update(sent), start, 0.5, SCRATCH)
    payload = whole.payload.read_bytes()
    monkeypatch.setattr(guards, "PIECE", 4)
    pieces = clipped(update(sent), start, 0.5, SCRATCH)
    assert payload == pieces.payload.read_bytes() and whole.norm == pytest.approx(
        pieces.norm, rel=1e-14
    )


def test_an_update_that_overflows_fp32_is_brought_back():
    sent, start = {"a": torch.tensor([3e38, 3e38])}, {"a": torch.tensor([-3e38, -3e38])}
    found = clipped(update(sent), start, 1e38, SCRATCH)
    assert found.norm == pytest.approx(6e38 * math.sqrt(2))
    assert torch.isfinite(unpack(found.payload)["a"]).all()


# In rounds


class Far(LocalFleet):
    """Client 0 sends huge tensors, and says that their norm is small."""

    def train(self, jobs):
        for each in super().train(jobs):
            if each.client == 0:
                tensors = {n: t + 1e4 for n, t in unpack(each.payload).items()}
                each = replace(each, payload=pack(tensors), norm=1e-9, clipped=False)
            yield each


def rounds_of(method, folder, guard, kind=LocalFleet, rounds=2):
    store, model = PartStore(folder / "parts"), tiny("gpt2", KIND)
    fleet = fleet_of(clients_of(KIND, (6, 3, 4)), (2,) * 3, store, kind=kind)
    options = {"context__name": "drop"} if method == "leff" else {}
    made = recipe(method, model, KIND, store, **options)
    return model, run_rounds(model, made, fleet, folder, rounds, guard=guard)


@pytest.mark.parametrize("method", METHODS)
def test_a_bound_that_nobody_meets_changes_no_bit(method, tmp_path):
    plain, records = rounds_of(method, tmp_path / "plain", Guard())
    bound, others = rounds_of(method, tmp_path / "bound", Guard(clip_norm=1e9))
    assert same(state_of(plain), state_of(bound))
    for record, other in zip(records, others, strict=True):
        assert all(c["norm"] > 0 and "clipped" not in c for c in other["clients"])
        assert [c["norm"] for c in record["clients"]] == [c["norm"] for c in other["clients"]]


@pytest.mark.parametrize("method", METHODS)
def test_the_bound_holds_for_every_method(method, tmp_path, monkeypatch):
    """What is merged is within the bound, whatever a client sent and said of it."""
    most, merged = 0.05, []

    def watched(update, start, *more):
        found = clipped(update, start, *more)
        merged.append((unpack(found.payload), {n: t.detach().clone() for n, t in start.items()}))
        return found

    monkeypatch.setattr("leff.server.clipped", watched)
    before = state_of(tiny("gpt2", KIND))
    model, (record,) = rounds_of(method, tmp_path, Guard(clip_norm=most), Far, 1)
    assert len(merged) == 3
    for tensors, start in merged:
        assert tensors.keys() == start.keys()
        size = max(float(t.abs().max()) for t in start.values())
        count = sum(t.numel() for t in tensors.values())
        assert distance(tensors, start) <= most * (1 + 1e-6) + 1e-7 * size * math.sqrt(count)
    first, *others = record["clients"]
    assert first["clipped"] and first["norm"] > 1e4 and first["failure"] is None
    assert all(c["norm"] < 1e3 and c.get("clipped", False) == (c["norm"] > most) for c in others)
    if method in ("fedavg", "fedbitfit", "leff"):  # there the difference is the model's own
        after = state_of(model)
        own = {name for tensors, _ in merged for name in tensors}
        assert distance({n: after[n] for n in own}, before) <= most * 1.01
    assert max(float((state_of(model)[n] - t).abs().max()) for n, t in before.items()) < 1


@pytest.mark.parametrize("method", METHODS)
def test_the_norm_is_of_what_training_changed(method, tmp_path):
    """A client that takes no step has not moved, also where its first values are drawn."""

    still = {"epochs": 1e-9, "learning_rate": 1e-30, "weight_decay": 0.0}

    class Still(LocalFleet):
        def train(self, jobs):
            return super().train(
                [replace(job, training=replace(job.training, **still)) for job in jobs]
            )

    _, records = rounds_of(method, tmp_path, Guard(), Still)
    for record in records:
        assert all(client["norm"] < 1e-20 for client in record["clients"])


@pytest.mark.parametrize("method", METHODS)
def test_each_layer_has_the_norm_of_its_part(method, tmp_path):
    _, records = rounds_of(method, tmp_path, Guard(), rounds=1)
    for client in records[0]["clients"]:
        assert len(client["norms"]) == len(client["layers"]) and min(client["norms"]) > 0
        whole = math.fsum(norm**2 for norm in client["norms"])
        assert whole <= client["norm"] ** 2 * (1 + 1e-9)  # the tail has the rest


def test_the_parts_of_layers_with_alike_names_stay_apart():
    start = {name: torch.zeros(2) for name in ("h.1.a", "h.1.b", "h.11.a", "tail")}
    sent = {name: torch.full((2,), float(k + 1)) for k, name in enumerate(start)}
    found = clipped(update(sent), start, 0.5, SCRATCH, ("h.1.", "h.11.", "h.2."))
    assert found.norms == pytest.approx((math.sqrt(10), math.sqrt(18), 0.0))
    assert found.clipped and found.norm == pytest.approx(math.sqrt(60))


def test_a_refused_update_has_no_norm(tmp_path):
    class Broken(LocalFleet):
        def train(self, jobs):
            for each in super().train(jobs):
                yield replace(each, payload=b"", failure="gone", norm=5.0, norms=(1.0,))

    _, records = rounds_of("fedavg", tmp_path, Guard(), Broken, 1)
    assert not any({"norm", "norms", "clipped"} & c.keys() for c in records[0]["clients"])


# The weight


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=12), st.floats(0.01, 1))
def test_no_client_has_more_than_its_share_and_the_rest_is_kept(examples, share):
    most = most_examples(examples, share)
    weights = [min(own, most) for own in examples]
    if share * len(examples) < 1:
        assert len(set(weights)) == 1
        return
    assert max(weights) <= share * sum(weights) * (1 + 1e-12)
    more = [min(own, most + 1) for own in examples]
    assert more == weights or max(more) > share * sum(more) * (1 - 1e-12)


def test_without_clients_there_is_nothing_to_cap():
    assert most_examples([], 0.5) == 1


@pytest.mark.parametrize("method", ["fedavg", "flora"])
def test_a_small_share_weighs_a_client_less(method, tmp_path):
    plain, _ = rounds_of(method, tmp_path / "plain", Guard(), rounds=1)
    equal, records = rounds_of(method, tmp_path / "equal", Guard(most_weight=1 / 3), rounds=1)
    assert not same(state_of(plain), state_of(equal))
    assert [c["examples"] for c in records[0]["clients"]] == [6, 3, 4]  # as they are


def test_weights_under_a_cap_are_those_of_fewer_examples(tmp_path):
    spool = Spool(tmp_path / "updates")
    spool.open(dict.fromkeys((0, 1, 2, 9), ""))
    for client, examples in enumerate((10**8, 3, 4)):
        spool.add(Update(0, client, (0,), examples, pack({"a": torch.ones(1) * client})))
    spool.add(Update(0, 9, (0,), 10**8, failure="gone"))
    assert [u.examples for u in weighed(spool, Guard(most_weight=0.5))] == [7, 3, 4]
    assert [u.examples for u in weighed(spool, Guard())] == [10**8, 3, 4]


WEIGHTS = {"examples": [60, 8, 8], "steps": [60 << 13, 4 << 16, 8 << 16], "equal": [1, 1, 1]}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_what_a_client_counts(weights, tmp_path):
    """Clients with 60, 8 and 8 examples were asked for 8, 2 and 1 steps."""
    spool = Spool(tmp_path / "updates")
    spool.open(dict.fromkeys(range(3), ""))
    for client, (examples, steps) in enumerate(((60, 8), (8, 2), (8, 1))):
        tensors = pack({"a": torch.ones(1)})
        spool.add(Update(0, client, (0,), examples, tensors, asked_steps=steps))
    assert [u.examples for u in weighed(spool, Guard(weights=weights))] == WEIGHTS[weights]
    capped = [u.examples for u in weighed(spool, Guard(weights=weights, most_weight=0.4))]
    assert max(capped) / sum(capped) <= 0.4


def test_by_steps_a_client_that_trained_twice_as_long_does_not_count_twice(tmp_path):
    """The step of both is that of the mean over D_i of their steps, up to one factor (FedNova)."""
    spool = Spool(tmp_path / "updates")
    spool.open(dict.fromkeys(range(2), ""))
    for client, (examples, steps, moved) in enumerate(((10, 10, 10.0), (30, 3, 6.0))):
        tensors = pack({"a": torch.tensor([moved])})
        spool.add(Update(0, client, (0,), examples, tensors, asked_steps=steps))
    found = float(add_up(weighed(spool, Guard(weights="steps"))).mean("a").tensor)
    by_step = (10 * (10.0 / 10) + 30 * (6.0 / 3)) / 40  # Σ p_i Δ_i / τ_i
    harmonic = 40 / (10 / 10 + 30 / 3)  # steps in the mean, so that equal clients move as one
    assert found == pytest.approx(by_step * harmonic, rel=1e-4)
