"""The laws that every round holds, on tiny random models of several families."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import (
    CASES,
    CPU,
    PAD,
    clients_of,
    dropping,
    federate,
    fleet_of,
    make_method,
    run_rounds,
    same,
    state_of,
    with_settings,
)
from tiny_models import tiny

from leff.engines.local import LocalFleet
from leff.errors import RunError
from leff.models import layer_prefix, shell_state, tail_state, trainable_names
from leff.models.activations import fuse
from leff.round import choose_clients
from leff.seeds import derive_seed, numpy_rng
from leff.tasks.encode import Example, collate
from leff.units import share_of
from leff.wire.parts import PartStore

GPT2 = ("gpt2", "generation")


class Shuffled(LocalFleet):
    """Updates arrive in another order."""

    def train(self, jobs):
        yield from reversed(list(super().train(jobs)))


@pytest.mark.parametrize(
    ("case", "context"), [*((case, "drop") for case in CASES), (GPT2, "distil"), (GPT2, "quantise")]
)
def test_leff_with_every_layer_is_fedavg_to_the_bit(case, context, tmp_path):
    a, _ = federate("fedavg", case, tmp_path / "a", rounds=3)
    b, records = federate("leff", case, tmp_path / "b", rounds=3, context=context)
    assert same(state_of(a), state_of(b))
    assert not same(state_of(a), state_of(tiny(*case)))
    assert records[0]["context_error"] == {} and records[0]["entropy"] == 0


@pytest.mark.parametrize("case", CASES)
def test_one_client_is_central_training(case, tmp_path):
    """An independent loop over the same examples, a fresh AdamW every round."""
    kind, rounds = case[1], 2
    (examples,) = clients_of(kind, (11,))
    store = PartStore(tmp_path / "parts")
    found, central = dropping(*case), dropping(*case)
    fleet = fleet_of([examples], (1,), store, CPU)
    run_rounds(found, make_method("fedavg", kind, store), fleet, tmp_path, rounds)
    fuse(central)  # as on the client
    frozen = set(shell_state(central))
    parameters = [p for n, p in central.named_parameters() if n not in frozen]
    central.train()
    for index in range(rounds):
        optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01, fused=True)
        seed = derive_seed(0, "client", index, 0)
        rng = numpy_rng(seed, "order", 0)
        order = sorted(rng.permutation(11), key=lambda i: len(examples[i].input_ids))
        chosen = (order[:4], order[4:8], order[8:])  # one window, by length
        for turn in rng.permutation(3):
            central.zero_grad()
            central(**collate([examples[i] for i in chosen[turn]], PAD)).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    expected = state_of(central)
    for name, tensor in state_of(found).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", ["fedavg", "leff"])
@pytest.mark.parametrize("context", ["drop", "distil", "quantise"])
def test_a_round_without_local_steps_changes_nothing(method, context, tmp_path):
    model, records = federate(
        method,
        GPT2,
        tmp_path,
        context=context,
        capacities=(1, 2, 3),
        training=with_settings(epochs=0),
        settings={} if method == "fedavg" else {"steps": 2},
    )
    assert same(state_of(model), state_of(tiny(*GPT2)))
    assert records[0]["train_loss"] is None
    assert all(c["steps"] == 0 and c["failure"] is None for c in records[0]["clients"])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("context", ["drop", "distil", "quantise"])
def test_untrained_layers_and_embeddings_keep_their_bits(case, context, tmp_path):
    before = tiny(*case)
    model, (record,) = federate(
        "leff",
        case,
        tmp_path,
        rounds=1,
        capacities=(1, 2, 1),
        context=context,
        settings={"sampling": "round_robin", "steps": 2},
    )
    trained = {layer for client in record["clients"] for layer in client["layers"]}
    assert trained and trained != set(range(4))  # blocks 0, 1-2 and 2: layer 3 is left
    old, new = before.state_dict(), model.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    allowed = set(trainable_names(before, trained))
    assert changed <= allowed
    for layer in trained:
        assert any(name.startswith(layer_prefix(before, layer)) for name in changed)
    assert changed & set(tail_state(before))
    assert not changed & set(shell_state(before))


def test_tail_is_merged_over_all_and_a_layer_over_those_who_trained_it(tmp_path):
    """The means, by numpy in float64, from the updates themselves."""
    seen = []

    class Watched(LocalFleet):
        def train(self, jobs):
            for update in super().train(jobs):
                seen.append(update)
                yield update

    from leff.wire.tensors import unpack

    sizes, capacities = (9, 5, 12), (1, 2, 3)
    model, store = tiny(*GPT2), PartStore(tmp_path / "parts")
    before = state_of(model)
    fleet = fleet_of(clients_of("generation", sizes), capacities, store, kind=Watched)
    method = make_method("leff", "generation", store, sampling="round_robin")
    run_rounds(model, method, fleet, tmp_path, 1)
    assert [u.layers for u in seen] == [(0,), (1, 2), (0, 1, 2)]
    after, tensors = state_of(model), [unpack(u.payload) for u in seen]
    for name, tensor in after.items():
        holders = [i for i in range(3) if name in tensors[i]]
        if name.startswith("transformer.ln_f"):
            assert holders == [0, 1, 2]
        if not holders:
            assert torch.equal(tensor, before[name])
            continue
        values = np.array([tensors[i][name].double().numpy() for i in holders])
        expected = np.average(values, axis=0, weights=[sizes[i] for i in holders])
        np.testing.assert_array_equal(tensor.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("method", ["fedavg", "leff"])
def test_order_of_arrival_does_not_matter(method, tmp_path):
    states, records = [], []
    for fleet_class in (LocalFleet, Shuffled):
        folder = tmp_path / fleet_class.__name__
        model, store = tiny(*GPT2), PartStore(folder / "parts")
        clients = clients_of("generation", (9, 5, 12))
        fleet = fleet_of(clients, (1, 2, 3), store, kind=fleet_class)
        made = make_method(method, "generation", store)
        records.append(run_rounds(model, made, fleet, folder, 2))
        states.append(state_of(model))
    assert same(*states)
    assert timeless(records[0]) == timeless(records[1])


def timeless(records):
    """Records without their clocks."""
    return [
        {
            key: [{k: v for k, v in c.items() if "seconds" not in k} for c in value]
            if key == "clients"
            else value
            for key, value in record.items()
            if "seconds" not in key
        }
        for record in records
    ]


@pytest.mark.parametrize("context", ["drop", "distil", "quantise"])
def test_the_same_seed_gives_the_same_run_and_another_does_not(context, tmp_path):
    def run(folder, seed):
        torch.manual_seed(hash(folder) % 1000)
        return federate(
            "leff",
            GPT2,
            tmp_path / folder,
            capacities=(1, 2, 3),
            context=context,
            seed=seed,
            settings={"steps": 2},
        )

    (a, ra), (b, rb), (c, _) = run("a", 0), run("b", 0), run("c", 1)
    assert same(state_of(a), state_of(b)) and timeless(ra) == timeless(rb)
    assert not same(state_of(a), state_of(c))


def test_a_failed_update_is_refused_and_counted_and_the_others_merge(tmp_path):
    """Client 1's labels are poisoned: the round is that of clients 0 and 2."""

    def run(folder, poisoned, ids):
        clients = clients_of("regression", (8, 8, 8))
        if poisoned:
            clients[1] = [Example(e.input_ids, label=float("nan")) for e in clients[1]]
        store = PartStore(tmp_path / folder / "parts")
        model = tiny("bert", "regression")
        fleet = fleet_of(clients, (2, 2, 2), store, CPU)
        if not poisoned:
            everyone = fleet.train
            fleet.train = lambda jobs: everyone([j for j in jobs if j.client in ids])
        method = make_method("fedavg", "regression", store)
        return model, run_rounds(model, method, fleet, tmp_path / folder, 1)[0]

    bad, record = run("bad", True, ())
    good, clean = run("good", False, (0, 2))
    assert same(state_of(bad), state_of(good))
    assert record["failures"] == 1 and clean["failures"] == 0
    failed = record["clients"][1]
    assert "the loss was nan" in failed["failure"] and failed["upload_bytes"] == 0
    assert record["train_loss"] == clean["train_loss"] and math.isfinite(record["train_loss"])


def test_a_round_in_which_everyone_fails_changes_nothing(tmp_path):
    clients = [
        [Example(e.input_ids, label=float("nan")) for e in clients_of("regression", (5,))[0]]
    ]
    model, store = tiny("bert", "regression"), PartStore(tmp_path / "parts")
    fleet = fleet_of(clients, (2,), store, CPU)
    method = make_method("fedavg", "regression", store)
    (record,) = run_rounds(model, method, fleet, tmp_path, 1)
    assert same(state_of(model), state_of(tiny("bert", "regression")))
    assert record["failures"] == 1 and record["train_loss"] is None


def test_a_record_says_what_happened(tmp_path):
    import json

    _, (first, second) = federate("leff", GPT2, tmp_path, capacities=(1, 2, 4))
    assert (first["round"], second["round"]) == (1, 2)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert [c["client"] for c in first["clients"]] == [0, 1, 2]
    assert [c["capacity"] for c in first["clients"]] == [1, 2, 4]
    assert [len(c["layers"]) for c in first["clients"]] == [1, 2, 4]
    assert [c["examples"] for c in first["clients"]] == [9, 5, 12]
    assert [c["steps"] for c in first["clients"]] == [3, 2, 3]
    for key in ("download_bytes", "upload_bytes"):
        assert first[key] == sum(c[key] for c in first["clients"]) > 0
    losses = [c["losses"][1] for c in first["clients"]]
    assert first["train_loss"] == pytest.approx(np.average(losses, weights=[9, 5, 12]))
    assert first["learning_rate"] == 1e-2 and first["failures"] == 0
    assert len(first["layer_scores"]) == 4 and min(first["layer_scores"]) > 0
    assert 0 < first["entropy"] <= first["entropy_uniform"]
    assert first["entropy_uniform"] == pytest.approx((np.log(4) + np.log(3)) / 3)
    assert all(error >= 0 for error in first["context_error"].values())
    assert all(first[f"{step}_seconds"] >= 0 for step in ("plan", "train", "merge"))


def test_progress_sees_the_plan_then_every_update(tmp_path):
    from leff.methods.method import RoundContext
    from leff.round import Watcher, run_round
    from leff.server import Server
    from leff.wire.spool import Spool

    calls = []

    class Noting(Watcher):
        def planned(self, plan):
            calls.append(len(plan.jobs))

        def trained(self, update):
            calls.append(("client", update.client))

        def observe(self, plan, spool):
            calls.append(sorted(spool.updates))
            return {"plug_in_gap": 0.5}

    store = PartStore(tmp_path / "parts")
    record = run_round(
        tiny(*GPT2),
        make_method("leff", "generation", store),
        fleet_of(clients_of("generation", (5, 5)), (1, 1), store, CPU),
        RoundContext(0, 0, with_settings()),
        Server(store, Spool(tmp_path / "updates")),
        watcher=Noting(),
    )
    assert calls == [2, ("client", 0), ("client", 1), [0, 1]]
    assert record.plug_in_gap == 0.5


def test_only_those_that_answer_take_part(tmp_path):
    """Ids need not be consecutive, and a client that is silent has no job."""

    class Sparse:
        steady = True

        def __init__(self, fleet):
            self._fleet, self.train = fleet, fleet.train

        def clients(self):
            return [0, 2]

        def report(self, clients):
            return [own for own in self._fleet.report(clients) if own.client != 0]

    store = PartStore(tmp_path / "parts")
    fleet = Sparse(fleet_of(clients_of("generation", (5, 5, 5)), (1, 1, 1), store, CPU))
    method = make_method("leff", "generation", store)
    (record,) = run_rounds(tiny(*GPT2), method, fleet, tmp_path, 1)
    assert [client["client"] for client in record["clients"]] == [2]


@given(st.integers(1, 300), st.floats(0.001, 1), st.integers(0, 99))
def test_chosen_clients_are_a_share_at_least_one_and_distinct(size, share, seed):
    chosen = choose_clients(range(size), share, np.random.default_rng(seed))
    assert len(chosen) == share_of(size, share)
    assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < size
    assert chosen == choose_clients(range(size), share, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("share", "spare", "count"), [(0.3, 0, 3), (0.3, 0.5, 5), (0.5, 0.2, 6), (1, 0.5, 10)]
)
def test_spare_clients_are_asked_beyond_the_share_as_far_as_there_are_some(share, spare, count):
    chosen = choose_clients(range(10), share, np.random.default_rng(0), spare)
    assert len(set(chosen)) == len(chosen) == count


class Counting(LocalFleet):
    """Notes whose updates were waited for; some clients fail, and one kills the server."""

    failing, killed = (), False

    def train(self, jobs):
        self.done = []
        for update in super().train(jobs):
            if self.killed and self.done:
                raise KeyboardInterrupt
            self.done.append(update.client)
            failed = update.client in self.failing
            yield replace(update, failure="its disk is full") if failed else update


def spared(folder, **changes):
    """A fleet of six, of whom four are asked and two are needed, with what a round needs."""
    store = PartStore(folder / "parts")
    clients = clients_of("generation", (5,) * 6)
    fleet = fleet_of(clients, (1,) * 6, store, kind=Counting)
    for name, value in changes.items():
        setattr(fleet, name, value)
    rounds = {"rounds": 1, "share": 1 / 3, "spare": 1.0}
    return fleet, (make_method("leff", "generation", store), fleet, folder), rounds


def test_with_spare_clients_the_round_ends_once_enough_have_answered(tmp_path):
    fleet, arguments, rounds = spared(tmp_path)
    (record,) = run_rounds(tiny(*GPT2), *arguments, **rounds)
    assert [client["client"] for client in record["clients"]] == sorted(fleet.done)
    assert len(fleet.done) == 2 and record["failures"] == 0
    assert list(record["sat_out"].values()) == ["not needed: enough others had answered"] * 2


def test_a_failure_is_not_one_of_the_answers_that_are_enough(tmp_path):
    fleet, arguments, rounds = spared(tmp_path / "a")
    run_rounds(tiny(*GPT2), *arguments, **rounds)
    first = fleet.done[0]
    fleet, arguments, rounds = spared(tmp_path / "b", failing=(first,))
    (record,) = run_rounds(tiny(*GPT2), *arguments, **rounds)
    assert len(fleet.done) == 3 and record["failures"] == 1 and len(record["sat_out"]) == 1


def test_a_killed_round_waits_for_as_many_as_it_would_have(tmp_path):
    fleet, arguments, rounds = spared(tmp_path / "whole")
    run_rounds(whole := tiny(*GPT2), *arguments, **rounds)
    fleet, arguments, rounds = spared(tmp_path / "killed", killed=True)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(model := tiny(*GPT2), *arguments, **rounds)
    assert len(fleet.done) == 1
    fleet.killed = False
    (record,) = run_rounds(model, *arguments, **rounds)
    assert len(fleet.done) == 1 and len(record["clients"]) == 2
    assert same(state_of(model), state_of(whole))


def test_without_clients_there_is_no_round():
    with pytest.raises(RunError, match=r"no client can be reached, .* see clients\.count"):
        choose_clients([], 0.5, np.random.default_rng(0))


def test_everybody_is_chosen_in_time_and_by_everybody_alike():
    rng = np.random.default_rng(0)
    counts = np.zeros(10)
    for _ in range(2000):
        counts[choose_clients(range(10), 0.3, rng)] += 1
    assert counts.sum() == 6000 and abs(counts - 600).max() < 90


def test_a_share_of_the_clients_takes_part(tmp_path):
    _, records = federate("leff", GPT2, tmp_path, share=0.6, rounds=3, capacities=(1, 1, 1))
    taking_part = [[c["client"] for c in record["clients"]] for record in records]
    assert all(len(ids) == 2 for ids in taking_part)
    assert len({tuple(ids) for ids in taking_part}) > 1
