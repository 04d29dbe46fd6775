"""A head's bias follows what clients' labels are: by hand, for every head, and in rounds."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import PAD, proxy, random_examples, recipe, run_rounds, same, state_of
from small_rounds import fleet_of as make_fleet
from tiny_models import CASES, tiny

from leff.methods.level import LEAST, bias_of, classifier_head, level, needs_proxy, step_of
from leff.models.kinds import LABEL_KINDS
from leff.tasks.held_out import held_out_logits
from leff.wire.messages import Update
from leff.wire.parts import PartStore

LABEL_CASES = [case for case in CASES if case[1] in LABEL_KINDS]
COUNT = {"classification": 2, "regression": 1}


def said(answers, labels, examples=5, **more):
    return Update(0, 0, (), examples, answers=tuple(answers), labels=tuple(labels), **more)


def test_the_step_is_the_difference_of_logs_of_means_weighted_by_examples():
    updates = [said((0.9, 0.1), (0.0, 1.0), 30), said((0.5, 0.5), (1.0, 0.0), 10)]
    step = [math.log(0.25 / 0.8), math.log(0.75 / 0.2)]
    wanted = [each - sum(step) / 2 for each in step]
    assert step_of(updates).tolist() == pytest.approx(wanted)


def test_a_regression_moves_by_the_difference_of_means():
    updates = [said((2.0,), (3.0,), 30), said((1.0,), (-1.0,), 10)]
    assert step_of(updates).tolist() == pytest.approx([(3 * 30 - 10) / 40 - 70 / 40])


def test_a_label_that_nobody_has_gives_a_finite_step():
    (first, second) = step_of([said((0.5, 0.5), (1.0, 0.0))]).tolist()
    assert first - second == pytest.approx(math.log(1 / LEAST))


def test_who_failed_or_said_nothing_does_not_count():
    one = said((0.9, 0.1), (0.5, 0.5))
    failed = said((0.1, 0.9), (0.5, 0.5), failure="x")
    assert step_of([one, failed, said((), ())]).tolist() == step_of([one]).tolist()
    assert step_of([failed, said((), ())]) is None and step_of([]) is None
    model = tiny("bert", "classification")
    before = state_of(model)
    assert level(model, [failed]) == () and same(state_of(model), before)


@given(st.lists(st.tuples(st.integers(1, 99), st.floats(0, 1), st.floats(0, 1)), min_size=1))
def test_no_reports_make_a_step_beyond_its_bound(reports):
    step = step_of([said((p, 1 - p), (q, 1 - q), n) for n, p, q in reports])
    assert torch.isfinite(step).all() and step.abs().max() <= -math.log(LEAST)
    assert float(step.sum()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("name", "kind"), LABEL_CASES)
def test_the_mean_answer_of_every_head_moves_by_the_step_and_nothing_else_does(name, kind):
    model, batches = tiny(name, kind), proxy(kind)
    head = classifier_head(model)
    assert head.out_features == COUNT[kind] == model.config.num_labels
    assert needs_proxy(model, kind) == (bias_of(head) is None)
    before, logits = state_of(model), [model(**batch).logits for batch in batches]
    updates = [said((0.8, 0.2), (0.3, 0.7)) if kind == "classification" else said((1.0,), (1.5,))]
    step = level(model, updates, batches)
    moved = [model(**batch).logits for batch in batches]
    found = (torch.cat(moved) - torch.cat(logits)).mean(0).tolist()
    assert found == pytest.approx(step, abs=1e-5) and any(step)
    changed = {n for n, tensor in state_of(model).items() if not torch.equal(tensor, before[n])}
    own = head.weight if bias_of(head) is None else head.bias
    assert changed == {n for n, p in model.named_parameters() if p is own}
    assert not model.training and head.weight.requires_grad


def test_a_head_without_a_bias_stays_where_there_is_no_proxy_data():
    model = tiny("gpt2", "classification")
    before = state_of(model)
    assert level(model, [said((0.8, 0.2), (0.3, 0.7))]) == () and same(state_of(model), before)


@pytest.mark.parametrize("kind", ["generation", "text"])
def test_a_language_model_has_no_such_head(kind):
    assert not needs_proxy(tiny("gpt2", "generation"), kind)


def one_label_each(sizes):
    rows = [random_examples("classification", size, seed) for seed, size in enumerate(sizes)]
    return [[replace(row, label=k % 2) for row in own] for k, own in enumerate(rows)]


@pytest.mark.parametrize("method", ["fedavg", "fedlora", "slora", "fedbitfit", "leff", "flora"])
def test_levelled_rounds_keep_the_answers_at_the_labels_shares(method, tmp_path):
    """Each client has one label, three times as many examples have label 0, and all push hard."""

    def answers(levelled):
        model, folder = tiny("bert", "classification"), tmp_path / f"{levelled}"
        store, clients = PartStore(folder / "parts"), one_label_each((24, 8))
        options = {"training.levelled": levelled, "training.calibrated": False}
        options |= {"training.learning_rate": 1e-2, "training.rounds": 6, "clients.count": 2}
        options |= {"clients.layers": [2], "method.rank": 2}
        made = recipe(method, model, "classification", store, **options)
        fleet = make_fleet(clients, (2, 2), store)
        training = local(options)
        records = run_rounds(model, made, fleet, folder, rounds=6, training=training)
        assert ("head_step" in records[0]) == levelled
        rows = [row for own in clients for row in own]
        logits = held_out_logits(model, rows, batch_size=32, pad_id=PAD)
        return float(logits.softmax(-1).mean(0)[0])

    assert abs(answers(True) - 0.75) < abs(answers(False) - 0.75)


def local(options):
    from leff.runs.config import load_config

    return load_config(None, dict(options)).training.local(0)
