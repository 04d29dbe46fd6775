"""Layer scores against an independent gradient, and the laws of block sampling."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chisquare
from small_rounds import CASES, proxy, same, state_of
from tiny_models import tiny

from leff.methods.importance import (
    RunningScores,
    block_probabilities,
    draw_block,
    entropy,
    layer_scores,
    sampling_entropy,
    uniforms,
)
from leff.methods.sums import add_scores, mean_scores
from leff.models import blocks, layer_prefix
from leff.wire.messages import Update
from leff.wire.tensors import pack, unpack

score = st.floats(0, 10)
scores_and_layers = st.lists(score, min_size=1, max_size=12).flatmap(
    lambda scores: st.tuples(st.just(np.array(scores)), st.integers(1, len(scores)))
)
scale = st.sampled_from(["literal", "standardised"])


@given(scores_and_layers, scale, st.floats(0.1, 10))
def test_probabilities_sum_to_one_over_the_blocks(case, scale, temperature):
    scores, layers = case
    p = block_probabilities(scores, layers, scale=scale, temperature=temperature)
    assert p.shape == (len(scores) - layers + 1,)
    assert (p >= 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)


@given(st.floats(0, 1e6), st.integers(1, 40), st.data())
def test_equal_scores_give_equal_probabilities_exactly(value, total, data):
    layers = data.draw(st.integers(1, total))
    for name in ("literal", "standardised"):
        p = block_probabilities(np.full(total, value), layers, scale=name)
        assert len(set(p.tolist())) == 1


@given(scores_and_layers)
def test_literal_is_the_softmax_of_the_summed_scores(case):
    scores, layers = case
    sums = [scores[k : k + layers].sum() for k in range(len(scores) - layers + 1)]
    p = block_probabilities(scores, layers, scale="literal")
    np.testing.assert_allclose(p, softmax(sums), rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_standardised_closed_form(layers, temperature):
    scores = np.array([3e-4, 1e-4, 7e-4, 2e-4, 9e-4, 5e-4])
    sums = np.array([scores[k : k + layers].sum() for k in range(7 - layers)])
    expected = softmax((sums - sums.mean()) / sums.std() / temperature)
    p = block_probabilities(scores, layers, scale="standardised", temperature=temperature)
    np.testing.assert_allclose(p, expected, rtol=1e-10)


def test_raw_scores_are_uniform_under_literal_and_not_when_standardised():
    scores = np.array([3e-4, 1e-4, 7e-4, 2e-4])
    literal = block_probabilities(scores, 1, scale="literal")
    scaled = block_probabilities(scores, 1, scale="standardised")
    assert literal.max() - literal.min() < 1e-3
    assert scaled.argmax() == 2 and scaled.max() > 2 * scaled.min()


def test_all_layers_are_one_block():
    for name in ("literal", "standardised"):
        assert block_probabilities(np.array([1.0, 5.0]), 2, scale=name).tolist() == [1.0]


@pytest.mark.parametrize("layers", [0, -1, 4])
def test_a_block_has_to_fit(layers):
    with pytest.raises(ValueError, match="1 to 3 layers"):
        block_probabilities(np.ones(3), layers)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_have_to_be_finite(bad):
    with pytest.raises(ValueError, match="finite"):
        block_probabilities(np.array([1.0, bad]), 1)


@given(scores_and_layers, scale, st.floats(0, 1))
def test_exploration_mixes_with_the_uniform_distribution(case, scale, exploration):
    plain = block_probabilities(*case, scale=scale)
    mixed = block_probabilities(*case, scale=scale, exploration=exploration)
    expected = (1 - exploration) * plain + exploration / len(plain)
    np.testing.assert_allclose(mixed, expected, rtol=1e-12)
    assert mixed.sum() == pytest.approx(1, abs=1e-12)
    assert (mixed >= exploration / len(plain) * (1 - 1e-12)).all()
    assert block_probabilities(*case, scale=scale, exploration=0.0).tolist() == plain.tolist()
    uniform = block_probabilities(*case, scale=scale, exploration=1.0)
    assert uniform.tolist() == [1 / len(plain)] * len(plain)


@pytest.mark.parametrize("exploration", [-0.1, 1.1, float("nan")])
def test_exploration_is_a_share(exploration):
    with pytest.raises(ValueError, match="exploration must be 0 to 1"):
        block_probabilities(np.ones(3), 1, exploration=exploration)


@given(scores_and_layers, scale, st.floats(0, 1, exclude_max=True))
def test_a_drawn_block_is_inside_the_model(case, scale, uniform):
    scores, layers = case
    first = draw_block(block_probabilities(scores, layers, scale=scale), uniform)
    assert first >= 0 and first + layers <= len(scores)


@pytest.mark.parametrize("stratified", [False, True])
def test_draws_follow_the_probabilities(stratified):
    """Also what a single client draws, whoever else there is."""
    p = block_probabilities(np.array([0.1, 0.8, 0.3, 0.5, 0.2]), 2)
    rng = np.random.default_rng(0)
    rounds = [uniforms(3, rng, stratified=stratified) for _ in range(4000)]
    for client in range(3):
        drawn = np.bincount([draw_block(p, chances[client]) for chances in rounds], minlength=4)
        assert chisquare(drawn, 4000 * p).pvalue > 0.01


@given(scores_and_layers, st.integers(1, 30), st.integers(0, 99))
def test_stratified_draws_of_a_round_are_as_many_as_expected(case, clients, seed):
    p = block_probabilities(*case)
    chances = uniforms(clients, np.random.default_rng(seed), stratified=True)
    drawn = np.bincount([draw_block(p, chance) for chance in chances], minlength=len(p))
    assert (np.abs(drawn - clients * p) < 1 + 1e-9).all()


def test_independent_draws_are_not():
    p, rng = np.full(4, 0.25), np.random.default_rng(0)
    rounds = [uniforms(4, rng, stratified=False) for _ in range(20)]
    assert any(len({draw_block(p, c) for c in chances}) < 4 for chances in rounds)


@given(scores_and_layers, scale)
def test_entropy_is_between_certain_and_uniform(case, scale):
    p = block_probabilities(*case, scale=scale)
    assert -1e-12 <= entropy(p) <= np.log(len(p)) + 1e-12


def test_entropy_of_certain_and_uniform():
    assert entropy(np.array([0.0, 1.0])) == 0.0
    assert entropy(np.ones(8) / 8) == pytest.approx(np.log(8))


def test_the_entropy_of_a_sampling():
    p = np.array([0.5, 0.25, 0.25])
    assert sampling_entropy("round_robin", p) == 0.0
    assert sampling_entropy("random", p) == pytest.approx(np.log(3))
    assert sampling_entropy("importance", p) == entropy(p) == pytest.approx(1.5 * np.log(2))


# What clients measured


def measured(client, layers, scores, examples=1, **other):
    return Update(0, client, tuple(layers), examples, layer_scores=tuple(scores), **other)


def after(scores, *rounds):
    for updates in rounds:
        scores.take_in(sums_of(updates))
    return scores.scores()


def sums_of(updates):
    found = {}
    for update in updates:
        add_scores(found, update)
    return mean_scores(found)


def test_before_any_measurement_all_layers_are_equal():
    scores = RunningScores(4)
    assert len(set(scores.scores().tolist())) == 1
    assert len(set(block_probabilities(scores.scores(), 2).tolist())) == 1
    assert after(scores, [Update(0, 0, (1,), 5)]).tolist() == scores.scores().tolist()


def test_a_round_is_a_mean_by_examples_and_rounds_are_an_exponential_mean():
    one = [measured(0, (0, 1), (1.0, 2.0), 1), measured(1, (1, 2), (6.0, 3.0), 3)]
    scores = RunningScores(4)
    assert after(scores, one).tolist() == [1.0, 5.0, 3.0, 3.0]  # nobody measured layer 3: the mean
    two = [measured(0, (1,), (1.0,)), measured(2, (3,), (0.0,))]
    assert after(scores, two).tolist() == [1.0, 3.0, 3.0, 0.0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e290), st.integers(1, 10**6)), min_size=1)
)
def test_scores_stay_between_the_measured(cases):
    updates = [measured(i, (layer,), (s,), n) for i, (layer, s, n) in enumerate(cases)]
    found = after(RunningScores(4), updates, updates[:1])
    low, high = min(s for _, s, _ in cases), max(s for _, s, _ in cases)
    assert (found >= low * (1 - 1e-9)).all() and (found <= high * (1 + 1e-9)).all()
    for layer in {layer for layer, _, _ in cases}:
        same_layer = [(s, n) for which, s, n in cases if which == layer]
        mean = np.average([s for s, _ in same_layer], weights=[n for _, n in same_layer])
        np.testing.assert_allclose(after(RunningScores(4), updates)[layer], mean, rtol=1e-9)


@pytest.mark.parametrize(
    "bad",
    [
        measured(9, (1,), (np.nan,)),
        measured(9, (1, 2), (1.0, np.inf)),
        measured(9, (1,), (-1.0,)),
        measured(9, (1, 2), (1.0,)),
        measured(9, (1,), ()),
        measured(9, (4,), (1.0,)),
        measured(9, (-1,), (1.0,)),
        measured(9, (1,), (1.0,), failure="gone"),
    ],
)
def test_scores_that_cannot_be_used_are_passed_over(bad):
    scores = RunningScores(4)
    expected = after(scores, [measured(0, (0, 1), (1.0, 2.0))]).tolist()
    assert after(scores, [bad]).tolist() == expected


def test_sums_that_overflow_are_passed_over():
    scores = RunningScores(4)
    huge = [measured(i, (1,), (1e308,), 100) for i in range(2)]
    assert after(scores, [measured(0, (0,), (3.0,))], huge).tolist() == [3.0] * 4


def test_running_scores_go_on_exactly_after_a_restart():
    rounds = [[measured(0, (r % 3,), (0.1 + r,), 3)] for r in range(5)]
    whole, resumed = RunningScores(4), RunningScores(4)
    after(whole, *rounds)
    before = RunningScores(4)
    after(before, *rounds[:2])
    resumed.load_state(unpack(pack(before.state())))
    assert resumed.scores().tolist() == before.scores().tolist()
    assert after(resumed, *rounds[2:]).tolist() == whole.scores().tolist()


def expected_scores(model, kind, batches, seed):
    """The same quantity, written down again: loss by the library, one gradient per parameter."""
    torch.manual_seed(seed)
    losses = []
    for batch in batches:
        inputs = {n: t for n, t in batch.items() if n != "labels"}
        logits = model(**inputs).logits
        if kind == "generation":
            losses.append(model(**batch).loss)
        elif kind == "classification":
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, replacement=True)[:, 0]
            losses.append(-logits.log_softmax(-1).gather(1, drawn[:, None]).mean())
        else:
            noise = torch.randn_like(logits)
            losses.append(((logits - logits.detach() - noise) ** 2).mean())
    loss = torch.stack(losses).mean()
    scores = []
    for layer in range(len(blocks(model))):
        total = 0.0
        for name, parameter in model.named_parameters():
            if name.startswith(layer_prefix(model, layer)):
                (g,) = torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)
                total += 0.0 if g is None else float(((g * parameter.detach()) ** 2).double().sum())
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_layer_scores_equal_a_gradient_per_parameter(name, kind):
    model, batches = tiny(name, kind), proxy(kind)
    with torch.random.fork_rng():
        expected = expected_scores(model, kind, batches, seed=3)
    found = layer_scores(model, batches, seed=3)
    assert found.shape == (4,) and (found > 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(("name", "kind"), CASES[:2])
def test_layer_scores_leave_no_trace(name, kind):
    model, batches = tiny(name, kind).train(), proxy(kind)
    blocks(model)[1].eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[3].grad = torch.ones_like(parameters[3])
    before, state = state_of(model), torch.get_rng_state()
    flags = [p.requires_grad for p in parameters]
    modes = [m.training for m in model.modules()]
    clean = layer_scores(tiny(name, kind), batches, seed=0)
    assert layer_scores(model, batches, seed=0).tolist() == clean.tolist()
    assert same(before, state_of(model))
    assert flags == [p.requires_grad for p in parameters]
    assert modes == [m.training for m in model.modules()]
    assert [p.grad is None for p in parameters] == [i != 3 for i in range(len(parameters))]
    assert (parameters[3].grad == 1).all()
    assert torch.equal(state, torch.get_rng_state())


def test_drawn_labels_depend_on_the_seed_alone():
    model, batches = tiny("bert", "classification"), proxy("classification")
    one = layer_scores(model, batches, seed=1)
    torch.manual_seed(123)
    assert layer_scores(model, batches, seed=1).tolist() == one.tolist()
    assert layer_scores(model, batches, seed=2).tolist() != one.tolist()
