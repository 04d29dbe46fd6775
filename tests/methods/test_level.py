"""A head's bias follows what clients' labels are: by hand, for every head, and in rounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_rounds import PAD, proxy, random_examples, recipe, run_rounds, same, state_of
from small_rounds import fleet_of as make_fleet
from tiny_models import CASES, tiny

from leff.client.measure import log_odds, sharpness
from leff.methods.jobs import JobWriter
from leff.methods.level import (
    bias_of,
    classifier_head,
    head_step,
    move_head,
    needs_proxy,
)
from leff.models.kinds import LABEL_KINDS
from leff.runs.levelling import Leveller
from leff.tasks.held_out import held_out_logits
from leff.wire.messages import OFFSETS, Measure
from leff.wire.parts import PartStore

LABEL_CASES = [case for case in CASES if case[1] in LABEL_KINDS]
COUNT = {"classification": 2, "regression": 1}


SIZES = {0: 30, 1: 10}


def said(answers, labels, client=0, **more):
    """A client's word, of so many texts that chance plays no part."""
    given = {"weight": 10**6, **more}
    return Measure(1, client, 5, answers=tuple(answers), labels=tuple(labels), **given)


def curves(logits, labels, client=0):
    """What a client with these logits, (n, K), says."""
    odds = [log_odds(logits, label) for label in range(logits.shape[1])]
    answers = [[float((own + by).sigmoid().mean()) for by in OFFSETS] for own in odds]
    return said([tuple(row) for row in answers], labels, client)


def test_equal_logits_move_to_the_mean_of_the_labels():
    """Means are weighted by D_i."""
    logits = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    step = head_step([curves(logits, (0, 1)), curves(logits, (1, 0), 1)], SIZES, 2)
    assert float(step.sum()) == pytest.approx(0)
    assert (logits + step).softmax(1)[0].tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("shift", [0.0, 9.0, -9.0])
def test_after_the_step_two_labels_have_their_shares_however_logits_lie(shift):
    """Also where every answer was the same label, and with a long tail to one side."""
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(4000, generator=generator, dtype=torch.float64)
    margins = torch.where(margins < 0, 8 * margins, margins) + shift
    logits = torch.stack((-margins / 2, margins / 2), dim=1)
    step = head_step(
        [curves(logits[:3000], (0.4, 0.6)), curves(logits[3000:], (0.4, 0.6), 1)], SIZES, 2
    )
    moved = (logits + step).softmax(-1)
    weighed = 0.75 * moved[:3000].mean(0) + 0.25 * moved[3000:].mean(0)
    assert weighed.tolist() == pytest.approx([0.4, 0.6], abs=0.01)


@pytest.mark.parametrize("classes", [3, 5])
def test_more_labels_come_closer_to_their_shares_with_every_step(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn((4000, classes), generator=generator, dtype=torch.float64)
    logits[:, 0] += 6
    shares = torch.arange(1, classes + 1, dtype=torch.float64)
    shares /= shares.sum()
    errors = []
    for _ in range(4):
        errors.append(float((logits.softmax(-1).mean(0) - shares).abs().max()))
        logits = logits + head_step([curves(logits, shares.tolist())], SIZES, classes)
    assert errors[0] > 0.5 > 0.1 > errors[1] > errors[2] > errors[3] and errors[3] < 0.01


def test_a_regression_moves_by_the_difference_of_means():
    measures = [said(((2.0,),), (3.0,)), said(((1.0,),), (-1.0,), 1)]
    assert head_step(measures, SIZES, 0).tolist() == pytest.approx([(3 * 30 - 10) / 40 - 70 / 40])


def test_a_label_that_nobody_has_gives_a_finite_step():
    logits = torch.zeros((1, 3), dtype=torch.float64)
    step = head_step([curves(logits, (0.5, 0.5, 0.0))], SIZES, 3)
    assert step[0] == step[1] and step[2] < -2 and bool(torch.isfinite(step).all())


def test_texts_of_one_label_alone_move_nothing():
    """They tell nothing of the other label; the next round may have it."""
    logits = torch.tensor([[2.0, -2.0]], dtype=torch.float64)
    assert head_step([curves(logits, (1.0, 0.0))], SIZES, 2) is None
    assert head_step([curves(logits, (1.0, 0.0)), curves(logits, (0, 1), 1)], SIZES, 2) is not None


@pytest.mark.parametrize(("classes", "each"), [(150, 1), (77, 1), (20, 1), (20, 20)])
def test_with_many_labels_chance_moves_nothing(classes, each):
    """A good model, and 32 texts of each of eight clients: of `each` labels in turn, or of all."""
    rng = np.random.default_rng(classes)

    def texts(labels):
        logits = rng.normal(size=(len(labels), classes))
        logits[np.arange(len(labels)), labels] += 4
        return torch.tensor(logits)

    measures = []
    for client in range(8):
        own = rng.integers(0, classes, 32) if each == 1 else np.full(32, client % each)
        shares = np.bincount(own, minlength=classes) / 32
        measures.append(replace(curves(texts(own), shares.tolist(), client), weight=32))
    step = head_step(measures, dict.fromkeys(range(8), 100), classes)
    labels = rng.integers(0, classes, 4000)
    logits = texts(labels)
    before, after = (
        float((each.argmax(1).numpy() == labels).mean()) for each in (logits, logits + step)
    )
    assert after > before - 0.02


def test_a_false_answer_moves_the_head_only_so_far():
    sizes, even = dict.fromkeys(range(10), 9), torch.zeros((1, 2), dtype=torch.float64)
    honest = [curves(even, (0.5, 0.5), client) for client in range(9)]
    liar = said(((0.0,) * len(OFFSETS), (1.0,) * len(OFFSETS)), (1.0, 0.0), 9)
    assert head_step([*honest, liar], sizes, 2).abs().max() < 0.3


def test_who_failed_or_said_nothing_does_not_count():
    one = curves(torch.tensor([[1.0, -1.0]], dtype=torch.float64), (0.5, 0.5))
    silent, failed = Measure(1, 1, 5), replace(one, client=1, labels=(0.0, 1.0), failure="x")
    step = head_step([one, failed, silent], SIZES, 2)
    assert step.tolist() == head_step([one], SIZES, 2).tolist()
    assert head_step([failed, silent], SIZES, 2) is None and head_step([], SIZES, 2) is None


@pytest.mark.parametrize(("name", "kind"), LABEL_CASES)
def test_the_mean_answer_of_every_head_moves_by_the_step_and_nothing_else_does(name, kind):
    model, batches = tiny(name, kind), proxy(kind)
    head = classifier_head(model)
    assert head.out_features == COUNT[kind] == model.config.num_labels
    assert needs_proxy(model, kind) == (bias_of(head) is None)
    before, logits = state_of(model), [model(**batch).logits for batch in batches]
    step = torch.tensor((-0.5, 0.5) if kind == "classification" else (0.5,))
    assert move_head(model, step, batches)
    moved = [model(**batch).logits for batch in batches]
    found = (torch.cat(moved) - torch.cat(logits)).mean(0).tolist()
    assert found == pytest.approx(step.tolist(), abs=1e-5)
    changed = {n for n, tensor in state_of(model).items() if not torch.equal(tensor, before[n])}
    own = head.weight if bias_of(head) is None else head.bias
    assert changed == {n for n, p in model.named_parameters() if p is own}
    assert not model.training and head.weight.requires_grad


def test_a_head_without_a_bias_stays_where_there_is_no_proxy_data():
    model = tiny("gpt2", "classification")
    before = state_of(model)
    assert not move_head(model, torch.tensor((-0.5, 0.5))) and same(state_of(model), before)


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
        options = {"training.calibrated": False}
        options |= {"training.learning_rate": 1e-2, "training.rounds": 6, "clients.count": 2}
        options |= {"clients.layers": [2], "method.rank": 2}
        made = recipe(method, model, "classification", store, **options)
        fleet = make_fleet(clients, (2, 2), store)
        training = local(options)
        leveller = (
            Leveller(JobWriter(store, "classification", PAD), 2, 32, 16, ()) if levelled else None
        )
        records = run_rounds(
            model, made, fleet, folder, rounds=6, training=training, leveller=leveller
        )
        assert levelled == ("level" in records[0])
        rows = [row for own in clients for row in own]
        logits = held_out_logits(model, rows, batch_size=32, pad_id=PAD)
        odds = log_odds(logits.double(), 0)
        return float((odds / sharpness(odds)).sigmoid().mean())

    assert abs(answers(True) - 0.75) < abs(answers(False) - 0.75)


def local(options):
    from leff.runs.config import load_config

    return load_config(None, dict(options)).training.local(0)
