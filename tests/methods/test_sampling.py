"""Blocks as drawn round after round: by whom importance is measured, turns, restart."""

from dataclasses import replace

import numpy as np
import pytest
from small_rounds import TRAINING, proxy
from tiny_models import LAYERS, tiny

from leff.methods.importance import layer_scores
from leff.methods.method import RoundContext
from leff.methods.mixing import IMBALANCE, imbalance
from leff.methods.sampling import BlockSampler, Rule
from leff.methods.sums import add_up
from leff.seeds import derive_seed
from leff.wire.messages import Update
from leff.wire.tensors import pack

EVERYBODY = dict.fromkeys(range(6), 1)


def sampler(**rule):
    return BlockSampler(Rule(**rule), proxy("generation"), LAYERS)


def draw(made, index=0, wanted=EVERYBODY, seed=0):
    return made.draw(tiny("gpt2", "generation"), RoundContext(index, seed, TRAINING), wanted)


def test_scores_are_those_of_the_model_on_the_rounds_proxy_batches():
    found = draw(sampler(batches=1), index=1).facts["layer_scores"]
    wanted = layer_scores(
        tiny("gpt2", "generation"),
        proxy("generation")[1:2],
        seed=derive_seed(0, "importance", 1),
    )
    assert found == wanted.tolist()


@pytest.mark.parametrize("sampling", ["random", "round_robin"])
def test_other_samplings_measure_nothing(sampling, monkeypatch):
    monkeypatch.setattr(
        "leff.methods.sampling.layer_scores", lambda *_, **__: pytest.fail("measured")
    )
    assert draw(sampler(sampling=sampling)).facts["layer_scores"] is None


def sums_of(updates):
    return add_up([replace(update, payload=pack({})) for update in updates])


def test_what_clients_measured_decides():
    made = sampler(source="clients", temperature=0.05)
    before = draw(made).facts
    assert before["entropy"] == pytest.approx(before["entropy_uniform"])  # nobody measured yet
    updates = [
        Update(0, client, (layer,), 5, layer_scores=(score,))
        for client, (layer, score) in enumerate([(0, 0.1), (1, 0.1), (2, 9.0), (3, 0.1)])
    ]
    made.take_in(sums_of(updates))
    found = draw(made, index=1)
    assert found.facts["layer_scores"] == [0.1, 0.1, 9.0, 0.1]
    assert {block.start for block in found.blocks.values()} == {2}


def test_exploration_reaches_the_least_important_layer():
    made = sampler(source="clients", temperature=0.01, exploration=0.5)
    made.take_in(sums_of([Update(0, 0, (0, 1, 2, 3), 5, layer_scores=(0.0, 0.0, 9.0, 0.0))]))
    drawn = [b.start for i in range(12) for b in draw(made, index=i).blocks.values()]
    counts = np.bincount(drawn, minlength=LAYERS) / len(drawn)
    np.testing.assert_allclose(counts, [1 / 8, 1 / 8, 5 / 8, 1 / 8], atol=0.09)


def test_round_robin_counts_a_clients_own_turns():
    made = sampler(sampling="round_robin")
    seen = []
    for index in range(8):
        wanted = {0: 1, 1: 1} if index % 2 else {1: 1}  # client 0 comes to every second round
        blocks = draw(made, index, wanted).blocks
        seen.append([blocks[c].start if c in blocks else None for c in (0, 1)])
    assert [first for first, _ in seen] == [None, 0, None, 1, None, 2, None, 3]
    assert [second for _, second in seen] == [1, 2, 3, 0, 1, 2, 3, 0]
    assert draw(made).facts["entropy"] == 0


@pytest.mark.parametrize("rule", [{"sampling": "round_robin"}, {"source": "clients"}])
def test_a_restart_goes_on_as_if_there_was_none(rule):
    one, other = sampler(**rule), sampler(**rule)
    draw(one)
    one.take_in(sums_of([Update(0, 0, (0, 1), 5, layer_scores=(1.0, 3.0))]))
    other.load_state(one.state())
    again, wanted = draw(other, index=1), draw(one, index=1)
    assert again == wanted and again.blocks != {}


def test_draws_depend_on_seed_and_round():
    made = sampler(sampling="random")
    drawn = [draw(made, i, seed=s).blocks for s in range(3) for i in range(3)]
    assert len({tuple(b.start for b in blocks.values()) for blocks in drawn}) > 4
    assert drawn[0] == draw(made, 0, seed=0).blocks


def test_fixed_keeps_every_clients_block():
    made = sampler(sampling="fixed")
    drawn = [draw(made, index, wanted={0: 1, 1: 1, 2: 2, 5: 1}) for index in range(4)]
    assert all(found.blocks == drawn[0].blocks for found in drawn)
    assert [tuple(block) for block in drawn[0].blocks.values()] == [(0,), (1,), (2, 3), (1,)]
    assert {found.facts["entropy"] for found in drawn} == {0}
    assert drawn[0].facts["entropy_uniform"] > 0 and drawn[0].facts["layer_scores"] is None


def test_clients_that_have_every_label_together_draw_together():
    made, labels = sampler(mixed=True), {c: [9.0, 0.0] if c % 2 else [0.0, 9.0] for c in range(6)}
    seen = set()
    for index in range(8):
        context = RoundContext(index, 0, TRAINING)
        drawn = made.draw(tiny("gpt2", "generation"), context, EVERYBODY, labels)
        groups = drawn.facts["groups"]
        for group in set(groups):
            members = [client for client in range(6) if groups[client] == group]
            assert len({drawn.blocks[client] for client in members}) == 1
        counts = np.array([labels[client] for client in range(6)])
        exact = np.full(6, np.inf)
        assert imbalance(counts, exact, np.array(groups)) <= IMBALANCE and len(set(groups)) < 6
        seen.add(tuple(groups))
    assert len(seen) > 1


def test_without_labels_each_draws_alone_and_who_said_nothing_counts_as_all_alike():
    made = sampler(mixed=True)
    assert "groups" not in draw(made).facts  # nobody has said anything to be mixed by
    assert draw(made).blocks == draw(sampler()).blocks
    labels = {0: [9.0, 0.0], 1: [0.0, 9.0]}
    context = RoundContext(0, 0, TRAINING)
    groups = made.draw(tiny("gpt2", "generation"), context, EVERYBODY, labels).facts["groups"]
    assert len(set(groups)) > 2
