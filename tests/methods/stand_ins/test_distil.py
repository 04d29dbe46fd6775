"""Distillation: its two losses against scipy, and the students that come out."""

import numpy as np
import pytest
import torch
from scipy.special import entr, rel_entr
from small_rounds import CASES, proxy, same, state_of
from tiny_models import tiny

from leff.methods.stand_ins import Bank, Distillation, Span, distil
from leff.methods.stand_ins.distil import Student, attention_cross_entropy
from leff.methods.stand_ins.stand_in import attention_mask
from leff.models import capture, eager_attention, layer_state

SPANS = [Span(0, 3, 1, True), Span(2, 4, 1, True), Span(3, 4, 0, True)]
GPT2 = ("gpt2", "generation")


def maps(seed, causal=False):
    """Attention maps (B 2, H 3, T 5, T 5)."""
    scores = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    if causal:
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    return scores.softmax(-1)


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("causal", [False, True])
def test_cross_entropy_is_scipys_divergence_and_the_teachers_entropy(causal):
    teacher, student = maps(0, causal), maps(1, causal)
    exact = teacher.double().numpy()
    rows = (rel_entr(exact, student.double().numpy()) + entr(exact)).sum(-1)  # (B, H, T)
    kept = np.broadcast_to(MASK.bool().numpy()[:, None], rows.shape)
    found = attention_cross_entropy(teacher, student, MASK)
    assert float(found) == pytest.approx(rows[kept].mean(), rel=1e-5)


def test_equal_maps_have_no_gradient():
    scores = torch.randn(2, 3, 5, 5, requires_grad=True)
    student = scores.softmax(-1)
    attention_cross_entropy(student.detach(), student, MASK).backward()
    assert scores.grad.abs().max() < 1e-7


def test_cross_entropy_of_causal_maps_has_a_finite_gradient():
    scores = torch.randn(2, 3, 5, 5, requires_grad=True)
    student = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf).softmax(-1)
    loss = attention_cross_entropy(maps(0, causal=True), student, MASK)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()
    assert (scores.grad != 0).any()


def test_a_student_without_weight_where_the_teacher_has_some_is_finite():
    student = torch.zeros(1, 1, 1, 2).index_fill(3, torch.tensor(0), 1.0).requires_grad_()
    loss = attention_cross_entropy(torch.full((1, 1, 1, 2), 0.5), student, torch.ones(1, 1))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_cross_entropy_ignores_padded_rows():
    teacher, student = maps(0), maps(1)
    wild = student.clone()
    wild[1, :, 3:] = torch.rand(3, 2, 5)
    plain = attention_cross_entropy(teacher, student, MASK)
    assert torch.equal(attention_cross_entropy(teacher, wild, MASK), plain)


def bank(steps=3, rate=1e-3, attention_weight=0.1, **settings):
    return Bank(Distillation(steps, rate, attention_weight, **settings))


def make(model, kind="generation", spans=SPANS, batches=None, decided=None, **settings):
    decided = {} if decided is None else decided
    return bank(**settings).make(model, spans, batches or proxy(kind), decided)


def all_same(one, two):
    return one.keys() == two.keys() and all(
        same(dict(a), dict(b))
        for span in one
        for a, b in zip(one[span].tensors, two[span].tensors, strict=True)
    )


def started(model, unit, earlier=None, target=0.0, batch=None):
    batch = batch or proxy("generation")[0]
    with eager_attention(model):
        return Student(model, unit, earlier, capture(model, batch), attention_mask(batch), target)


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("deberta-v2-conv", "regression")])
@pytest.mark.parametrize("attention_weight", [0.0, 0.1])
def test_training_lowers_the_error_and_leaves_the_teacher(name, kind, attention_weight):
    model = tiny(name, kind)
    before, implementation = state_of(model), model.config._attn_implementation
    options = {"rate": 3e-3, "attention_weight": attention_weight, "batches": proxy(kind)[:1]}
    untrained = make(model, kind, steps=0, **options)
    trained = make(model, kind, steps=25, **options)
    for span in SPANS[:2]:
        assert trained[span].error < 0.9 * untrained[span].error
    assert same(before, state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("whole", [False, True])
def test_a_span_of_several_layers(whole):
    """Apart, its students are those of the units; jointly, the hidden state flows through them."""
    model, span = tiny(*GPT2), Span(0, 4, 2, True)
    together = make(model, spans=[span], steps=25, rate=3e-3, whole=whole)[span]
    assert together.error < make(model, spans=[span], steps=0)[span].error
    units = span.units()
    apart = make(model, spans=units, steps=25, rate=3e-3)
    pairs = [
        same(dict(t), dict(apart[u].tensors[0]))
        for t, u in zip(together.tensors, units, strict=True)
    ]
    assert pairs == [not whole] * 2


def test_a_step_is_of_a_few_texts(monkeypatch):
    seen, real = [], distil.capture

    def noted(model, batch, **options):
        seen.append(batch["input_ids"])
        return real(model, batch, **options)

    monkeypatch.setattr(distil, "capture", noted)
    held, *others = proxy("generation")
    texts = [row.tolist() for batch in others for row in batch["input_ids"]]
    make(tiny(*GPT2), spans=SPANS[:1], batches=[held, *others], batch_size=3, steps=5)
    assert [len(rows) for rows in seen] == [3, 1, 3, 1, 3]
    assert [row.tolist() for rows in seen for row in rows] == [*texts, *texts[:3]]


def test_a_span_of_whole_layers_is_exact():
    span = Span(0, 3, 3, trained=True)
    model = tiny(*GPT2)
    for whole in (False, True):
        made = make(model, spans=[span], whole=whole)[span]
        assert made.error == 0
        assert all(same(dict(t), layer_state(model, i)) for i, t in enumerate(made.tensors))


def test_the_batch_that_measures_does_not_train():
    model, (first, second, *_) = tiny(*GPT2), proxy("generation")
    both = make(model, spans=SPANS[:1], batches=[first, second])[SPANS[0]]
    one = make(model, spans=SPANS[:1], batches=[second])[SPANS[0]]
    assert same(dict(both.tensors[0]), dict(one.tensors[0]))
    assert both.error != one.error


def test_a_student_begins_from_what_errs_least():
    """The mean of three layers, unless the last is nearer, or the student of the round before."""
    unit, model = Span(0, 3, 1, True), tiny(*GPT2)
    states = [layer_state(model, layer) for layer in range(3)]
    mean = {n: torch.stack([s[n] for s in states]).mean(0) for n in states[0]}
    errors = {}
    for name, tensors in {"mean": mean, "last": states[2]}.items():
        student = started(model, unit)
        student.layers[0].load_state_dict(tensors)
        batch = proxy("generation")[0]
        errors[name] = student.measure(capture(model, batch), attention_mask(batch))
    student = started(model, unit)
    wanted = mean if errors["mean"] < errors["last"] else states[2]
    assert same(dict(student.tensors()[0]), wanted)
    trained = make(model, spans=[unit], steps=25, rate=3e-3)[unit]
    assert trained.error < min(errors.values())
    again = started(model, unit, trained.tensors)
    assert same(dict(again.tensors()[0]), dict(trained.tensors[0]))
    assert again.error == pytest.approx(trained.error, rel=1e-5)


def idle(layer):
    """Let a GPT-2 layer write what it reads."""
    with torch.no_grad():
        for linear in (layer.attn.c_proj, layer.mlp.c_proj):
            linear.weight.zero_()
            linear.bias.zero_()


def test_the_last_layer_wins_where_the_others_do_nothing():
    model = tiny(*GPT2)
    for layer in model.transformer.h[:2]:
        idle(layer)
    student = started(model, Span(0, 3, 1, True))
    assert same(dict(student.tensors()[0]), layer_state(model, 2)) and student.error < 1e-6


def test_the_mean_wins_where_the_last_layer_does_nothing():
    model = tiny(*GPT2)
    for layer in model.transformer.h[:3]:
        idle(layer)
    with torch.no_grad():
        model.transformer.h[0].mlp.c_proj.bias.fill_(1.0)
    student = started(model, Span(0, 3, 1, True))
    torch.testing.assert_close(student.layers[0].mlp.c_proj.bias, torch.full((32,), 1 / 3))


def test_a_student_owns_its_tensors():
    made = make(model := tiny(*GPT2), spans=SPANS[1:2], steps=0)
    made[SPANS[1]].tensors[0]["ln_1.weight"].zero_()
    assert not torch.equal(layer_state(model, 3)["ln_1.weight"], torch.zeros(32))


def test_twice_the_same():
    model = tiny(*GPT2)
    torch.manual_seed(1)
    one = make(model)
    torch.manual_seed(2)
    assert all_same(one, make(model))


def test_students_do_not_depend_on_which_others_are_made():
    model = tiny(*GPT2)
    together = make(model)[SPANS[1]]
    alone = make(model, spans=SPANS[1:2])[SPANS[1]]
    assert same(dict(together.tensors[0]), dict(alone.tensors[0]))


def test_the_learning_rate_falls_in_the_second_half():
    settings = Distillation(8, 1.0, 0.1)
    assert [settings.rate(step) for step in range(8)] == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert Distillation(1, 0.5, 0.1).rate(0) == 0.5


def test_the_target_stops_training(monkeypatch):
    steps, span = [], SPANS[0]
    step = Student.step
    monkeypatch.setattr(Student, "step", lambda *a: steps.append(a[0].unit) or step(*a))
    model = tiny(*GPT2)
    start = make(model, spans=[span], steps=1, rate=1e-12)[span].error  # by least squares
    steps.clear()
    make(model, spans=[span], steps=60, rate=3e-3, target_error=0.99 * start)
    assert 0 < len(steps) < 60 and not len(steps) % 10
    steps.clear()
    make(model, spans=[span], steps=60, target_error=1.1 * start)
    assert steps == []


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_recorded_steps_are_done_again_whatever_the_clock_says(monkeypatch):
    monkeypatch.setattr(distil, "time", Clock())
    model, decided = tiny(*GPT2), {}
    first = make(model, steps=30, seconds=5.5, decided=decided)
    assert decided == {"distil_steps": 5}
    monkeypatch.undo()
    again = make(model, steps=30, seconds=1e-9, decided=decided)
    assert decided == {"distil_steps": 5} and all_same(first, again)
    free = {}
    assert not all_same(first, make(model, steps=30, decided=free))
    assert free == {}  # nothing was left to a clock


def test_the_loss_is_the_papers(monkeypatch):
    """(1-α)·MSE/mean(H_t²) + α·KL, of one student layer on the library's own outputs.

    The teacher's entropy, which changes no gradient, is in it.
    """
    seen = []
    original = distil._loss
    monkeypatch.setattr(distil, "_loss", lambda *a: seen.append(original(*a)) or seen[-1])
    monkeypatch.setattr(distil, "solve_by_least_squares", lambda *_: None)
    model, batches = tiny("bert", "classification"), proxy("classification")[:1]
    with torch.no_grad():  # the student begins as the last of the layers, which are the same
        model.bert.encoder.layer[1].load_state_dict(model.bert.encoder.layer[2].state_dict())
    make(model, spans=[Span(1, 3, 1, True)], batches=batches, steps=1, attention_weight=0.25)
    batch, mask = batches[0], batches[0]["attention_mask"].bool()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        full = model(**batch, output_hidden_states=True, output_attentions=True)
        layers = model.bert.encoder.layer
        model.bert.encoder.layer = torch.nn.ModuleList([layers[0], layers[2]])
        short = model(**batch, output_hidden_states=True, output_attentions=True)
    wanted, actual = full.hidden_states[3][mask], short.hidden_states[2][mask]
    mse = ((actual - wanted) ** 2).mean() / (wanted**2).mean()
    teacher = full.attentions[2].numpy()
    rows = (rel_entr(teacher, short.attentions[1].numpy()) + entr(teacher)).sum(-1)
    kept = np.broadcast_to(mask.numpy()[:, None], rows.shape)
    expected = 0.75 * float(mse) + 0.25 * rows[kept].mean()
    assert float(seen[0].detach()) == pytest.approx(expected, rel=1e-4)
