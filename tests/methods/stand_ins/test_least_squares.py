"""The start of students by least squares."""

import numpy as np
import pytest
import torch
from small_rounds import CASES, proxy
from tiny_models import tiny
from torch import nn

from leff.methods.stand_ins import least_squares
from leff.methods.stand_ins.distil import Student
from leff.methods.stand_ins.error import span_error
from leff.methods.stand_ins.least_squares import RIDGE, solve_by_least_squares
from leff.methods.stand_ins.stand_in import Span, attention_mask
from leff.models import blocks, capture, run_blocks
from leff.models.detect import linears


def begun(model, batches, *spans):
    held, mask = capture(model, batches[0]), attention_mask(batches[0])
    students = [Student(model, span, None, held, mask) for span in spans]
    before = [student.error for student in students]
    solve_by_least_squares(model, students, batches, held, mask)
    return students, before


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_error_falls_in_every_family_and_the_teacher_stays(name, kind):
    model = tiny(name, kind).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    students, before = begun(
        model, proxy(kind), Span(0, 2, 1, True), Span(1, 4, 1, True), Span(0, 4, 2, True)
    )
    for student, earlier in zip(students, before, strict=True):
        assert student.error < earlier
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_weight_is_numpys_solution():
    """GPT-2's last linear module is mlp.c_proj, whose output is added to what came before."""
    model, batches, span = (
        tiny("gpt2", "generation").eval(),
        proxy("generation"),
        Span(1, 3, 1, True),
    )
    held, mask = capture(model, batches[0]), attention_mask(batches[0])
    student = Student(model, span, None, held, mask)
    (layer,), seen = student.layers, []
    weight, bias = (each.detach().double().numpy().copy() for each in layer.mlp.c_proj.parameters())
    inputs, wanted = [], []
    hook = layer.mlp.c_proj.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        for batch in batches:
            trace, real = capture(model, batch), attention_mask(batch).bool()
            found, _ = run_blocks([layer], trace.hidden[1], trace, [2])
            inputs.append(seen.pop()[real].double().numpy())
            wanted.append((trace.hidden[3] - found)[real].double().numpy())
    hook.remove()
    z = np.concatenate(inputs)
    z = np.hstack([z, np.ones((len(z), 1))])
    inner = z.T @ z
    inner += RIDGE * np.trace(inner) / len(inner) * np.eye(len(inner))
    change = np.linalg.solve(inner, z.T @ np.concatenate(wanted))
    solve_by_least_squares(model, [student], batches, held, mask)
    found = layer.mlp.c_proj
    np.testing.assert_allclose(found.weight.detach(), weight + change[:-1], atol=2e-3)
    np.testing.assert_allclose(found.bias.detach(), bias + change[-1], atol=2e-3)


def test_no_more_texts_are_read_than_are_needed(monkeypatch):
    model, batches = tiny("llama", "generation").eval(), proxy("generation")
    (one,), _ = begun(model, batches[:1], Span(0, 2, 1, True))
    monkeypatch.setattr(least_squares, "TOKENS", 1e-6)
    (other,), _ = begun(model, batches, Span(0, 2, 1, True))
    for a, b in zip(one.layers[0].parameters(), other.layers[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_each_layer_is_solved_for_behind_those_before_it():
    """So the second of two layers makes up for what the first one gets wrong."""
    model, batches = tiny("gpt2", "generation").eval(), proxy("generation")
    spans = (Span(0, 4, 2, True), Span(0, 2, 1, True), Span(2, 4, 1, True))
    (both, first, second), _ = begun(model, batches, *spans)
    for a, b in zip(both.layers[0].parameters(), first.layers[0].parameters(), strict=True):
        assert torch.equal(a, b)
    trace, mask = capture(model, batches[0]), attention_mask(batches[0])
    assert both.error < span_error(spans[0], [*first.layers, *second.layers], trace, mask)


def test_what_makes_it_worse_is_taken_back(monkeypatch):
    monkeypatch.setattr(least_squares, "RIDGE", -3.0)  # a wrong solution
    model = tiny("gpt2", "generation").eval()
    (student,), (before,) = begun(model, proxy("generation"), Span(0, 2, 1, True))
    assert student.error == pytest.approx(before, rel=1e-3)


def test_a_layer_that_is_no_such_sum_stays(monkeypatch):
    """A linear module of another width comes last."""
    model = tiny("gpt2", "generation").eval()
    linear = nn.Linear(blocks(model)[0].mlp.c_proj.nf, 3)

    class Odd(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.linear = layer, linear

        def forward(self, hidden, *given, **named):
            out = self.layer(hidden, *given, **named)
            self.linear(hidden)
            return out

    held, mask = capture(model, proxy("generation")[0]), attention_mask(proxy("generation")[0])
    student = Student(model, Span(0, 2, 1, True), None, held, mask)
    student.layers = [Odd(student.layers[0])]
    before = [p.clone() for p in student.layers[0].parameters()]
    solve_by_least_squares(model, [student], proxy("generation"), held, mask)
    assert len(linears(student.layers[0])) == 5
    assert all(
        torch.equal(a, b) for a, b in zip(before, student.layers[0].parameters(), strict=True)
    )
