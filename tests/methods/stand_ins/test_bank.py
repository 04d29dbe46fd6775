"""The bank: units shared by spans, students kept over rounds, errors of what is sent."""

import pytest
import torch
from decoded import NAMES, value, with_values
from small_rounds import CASES, proxy, same, state_of
from tiny_models import tiny

from leff.methods.stand_ins import Bank, Distillation, Span, bank, make_context
from leff.methods.stand_ins.distil import Student
from leff.models import blocks, capture, layer_state, run_blocks
from leff.wire.tensors import pack, unpack

GPT2 = ("gpt2", "generation")
STUDENTS = [Span(0, 3, 1, True), Span(2, 4, 1, True)]


def new(steps=3, **settings):
    return Bank(Distillation(steps, 1e-3, 0.1, **settings))


def make(which, model, spans=STUDENTS, kind="generation", batches=None):
    return which.make(model, spans, batches or proxy(kind), {})


def distance(actual, wanted, mask):
    keep = mask.bool()
    return float((actual[keep] - wanted[keep]).norm() / wanted[keep].norm())


@pytest.fixture
def steps(monkeypatch):
    """The unit of each training step, in order."""
    seen, step = [], Student.step
    monkeypatch.setattr(Student, "step", lambda *a: seen.append(a[0].unit) or step(*a))
    return seen


def changed(model, layer=1):
    with torch.no_grad():
        next(blocks(model)[layer].parameters()).mul_(1.01)
    return model


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_dropped_layers_are_those_of_the_model(name, kind):
    model, spans = tiny(name, kind), [Span(0, 3, 2), Span(1, 4, 1), Span(3, 4, 0)]
    before = state_of(model)
    made = make(new(), model, spans, kind)
    assert set(made) == set(spans)
    for span, stand_in in made.items():
        for source, tensors in zip(span.sources, stand_in.tensors, strict=True):
            assert same(dict(tensors), layer_state(model, source))
    assert same(before, state_of(model)) and new().state() == {}


def test_the_whole_span_has_no_error():
    made = make(new(), tiny(*GPT2), [Span(0, 2, 2), Span(1, 4, 3)])
    assert [stand_in.error for stand_in in made.values()] == [0, 0]


@pytest.mark.parametrize(("name", "kind"), [GPT2, ("bert", "classification")])
def test_the_error_of_a_span_replaced_by_nothing_is_its_own_work(name, kind):
    """Then the output is the span's input: the full model's hidden states give the error."""
    model, batch = tiny(name, kind), proxy(kind)[0]
    made = make(new(), model, [Span(1, 3, 0), Span(0, 4, 0)], kind)
    hidden = capture(model, batch).hidden
    for span, stand_in in made.items():
        expected = distance(hidden[span.start], hidden[span.stop], batch["attention_mask"])
        assert stand_in.error == pytest.approx(expected, rel=1e-5)


def test_the_error_equals_a_model_without_the_dropped_layers():
    model, batch, span = tiny(*GPT2), proxy("generation")[0], Span(0, 3, 2)
    hidden = capture(model, batch).hidden
    made = make(new(), model, [span])[span]
    layers = blocks(model)
    model.transformer.h = torch.nn.ModuleList([layers[i] for i in span.sources])
    model.config.num_hidden_layers = 2
    expected = distance(capture(model, batch).hidden[-1], hidden[3], batch["attention_mask"])
    assert made.error == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 4])
def test_the_error_is_that_of_what_is_sent(name, bits):
    """The same with plain linear modules that hold the dequantised weights."""
    model, batch = tiny(name, "classification"), proxy("classification")[0]
    before, spans = state_of(model), [Span(0, 2, 2, False, bits), Span(1, 4, 3, False, bits)]
    made = make(new(), model, spans, "classification")
    assert same(before, state_of(model))
    trace, other = capture(model, batch), tiny(name, "classification")
    for span in spans:
        layers = [
            with_values(blocks(other)[i], t)
            for i, t in zip(span.sources, made[span].tensors, strict=True)
        ]
        with torch.no_grad():
            hidden, _ = run_blocks(layers, trace.hidden[span.start], trace, span.sources)
        expected = distance(hidden, trace.hidden[span.stop], batch["attention_mask"])
        assert made[span].error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_student_is_quantised_after_its_training(bits):
    model, span = tiny(*GPT2), Span(0, 3, 1, True, bits)
    plain = make(new(), model, STUDENTS[:1])[STUDENTS[0]]
    small = make(new(), model, [span])[span]
    weight = plain.tensors[0]["mlp.c_fc.weight"].t()
    found = value(small.tensors[0], "mlp.c_fc")
    assert 0 < float((found - weight).norm() / weight.norm()) < 0.15
    assert small.error == pytest.approx(plain.error, rel=0.2) and small.error != plain.error


def test_different_layers_are_quantised_once(monkeypatch):
    calls, original = [], bank.quantised
    monkeypatch.setattr(bank, "quantised", lambda *a: calls.append(1) or original(*a))
    spans = [Span(0, 2, 2, bits=8), Span(0, 3, 3, bits=8), Span(1, 4, 1, bits=8)]
    made = make(new(), tiny(*GPT2), spans)
    assert made[spans[0]].tensors[1] is made[spans[1]].tensors[1]
    assert len(calls) == 4


def test_one_teacher_pass_serves_all_units(monkeypatch):
    from leff.methods.stand_ins import distil

    calls = []
    for module in (bank, distil):
        monkeypatch.setattr(module, "capture", lambda *a, **k: calls.append(1) or capture(*a, **k))
    make(new(steps=3), tiny(*GPT2), [*STUDENTS, Span(0, 4, 2, True), Span(0, 3, 2)])
    assert len(calls) == 1 + 3  # to measure, and for each step


def test_students_of_unchanged_layers_are_reused(steps):
    model, bank = tiny(*GPT2), new()
    first = make(bank, model)
    assert len(steps) == 2 * 3
    again = make(bank, model, batches=proxy("generation")[::-1])
    assert len(steps) == 2 * 3
    for span in STUDENTS:
        assert same(dict(first[span].tensors[0]), dict(again[span].tensors[0]))
        assert first[span].error != again[span].error  # on another batch
    make(bank, changed(model, 1))
    assert steps[6:] == [STUDENTS[0]] * 3  # layer 1 is in the first span alone


def test_a_student_cut_short_goes_on(steps, monkeypatch):
    model, bank = tiny(*GPT2), new(steps=5)
    bank.make(model, STUDENTS, proxy("generation"), {"distil_steps": 2})
    make(bank, model)
    assert len(steps) == 2 * 2 + 2 * 5
    make(bank, model)
    assert len(steps) == 2 * 2 + 2 * 5


def test_a_student_at_its_target_keeps_its_bytes(steps):
    model, bank = tiny(*GPT2), new(target_error=10.0)
    first = make(bank, model)
    again = make(bank, changed(model, 2))
    assert steps == []
    assert all(same(dict(first[s].tensors[0]), dict(again[s].tensors[0])) for s in STUDENTS)


def test_a_warm_start_gets_further(monkeypatch):
    from leff.methods.stand_ins import distil

    monkeypatch.setattr(
        distil, "solve_by_least_squares", lambda *_: None
    )  # this model's is as good
    model = tiny(*GPT2)
    warm = new(steps=15)
    first = make(warm, model)
    again, cold = make(warm, changed(model, 2)), make(new(steps=15), model)
    assert all(again[s].error < first[s].error and again[s].error < cold[s].error for s in STUDENTS)


@pytest.mark.parametrize("whole", [False, True])
def test_a_restart_goes_on_to_the_bit(whole, steps):
    model, spans = tiny(*GPT2), [*STUDENTS, Span(0, 4, 2, True, 8), Span(0, 2, 1, True)]
    one, two = new(whole=whole), new(whole=whole)
    make(one, model, spans)
    make(one, model, spans[:2])  # so that some have been idle
    two.load_state(unpack(pack(one.state())))
    assert same(one.state(), two.state())
    steps.clear()
    found = [make(bank, model, spans) for bank in (one, two)]
    assert steps == []  # both know that nothing has changed
    found += [make(bank, changed(tiny(*GPT2)), spans) for bank in (one, two)]
    for a, b in (found[:2], found[2:]):
        for span in spans:
            assert a[span].error == b[span].error
            for x, y in zip(a[span].tensors, b[span].tensors, strict=True):
                assert same(dict(x), dict(y))
    assert same(one.state(), two.state())


def test_students_that_no_round_uses_are_dropped():
    model, bank = tiny(*GPT2), new(steps=0)
    make(bank, model)
    for idle in range(1, 5):
        make(bank, model, STUDENTS[1:])
        kept = {key.split("/")[0] for key in bank.state()}
        assert kept == ({"0", "2"} if idle < 4 else {"2"})


def test_a_mixed_context_has_both_kinds():
    model = tiny(*GPT2)
    spans = make_context("quantise", rate=0.5, bits=4, suffix="distil").spans(range(1, 2), 4)
    assert spans == (Span(0, 1, 1, False, 4), Span(2, 4, 1, True, 4))
    made = make(new(), model, spans)
    assert all(
        stand_in.tensors[0]["mlp.c_fc.weight"].dtype == torch.uint8 for stand_in in made.values()
    )
