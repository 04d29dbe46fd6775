"""The error of a client's whole model before it trains, against the client's own model."""

import pytest
import torch
from small_rounds import CASES, CPU, job_of, proxy
from tiny_models import tiny

from leff.client.model import client_model
from leff.methods.stand_ins import Bank, Distillation, block_errors, make_context
from leff.models import capture
from leff.wire.messages import Segment

DRAWN = [range(0, 1), range(1, 3), range(3, 4)]


def made_by(context, model, kind):
    spans = sorted({span for block in DRAWN for span in context.spans(block, 4)})
    return Bank(Distillation(2, 1e-3, 0.1)).make(model, spans, proxy(kind), {})


@pytest.mark.parametrize(("name", "kind"), [*CASES, ("deberta-v2-conv", "regression")])
@pytest.mark.parametrize("options", [("drop", 32, ""), ("quantise", 4, "distil")])
def test_block_errors_are_those_of_the_clients_models(name, kind, options, store):
    context = make_context(options[0], bits=options[1], suffix=options[2])
    model, batch = tiny(name, kind), proxy(kind)[0]
    made = made_by(context, model, kind)
    wanted, mask = capture(model, batch).hidden[-1], batch["attention_mask"].bool()
    found = block_errors(model, context, made, DRAWN, batch)
    for block in DRAWN:
        around = {
            span.start < block.start: Segment(
                span.sources, tuple(map(store.put, made[span].tensors)), bits=span.bits
            )
            for span in context.spans(block, 4)
        }
        job = job_of(model, kind, store, block, around.get(True), around.get(False))
        client = client_model(job, store.get, CPU).eval()
        hidden = capture(client, batch).hidden[-1]
        expected = float((hidden[mask] - wanted[mask]).norm() / wanted[mask].norm())
        assert found[block] == pytest.approx(expected, rel=1e-3)


def test_a_complete_context_has_no_error():
    model, context = tiny("gpt2", "generation"), make_context("quantise", bits=32)
    made = made_by(context, model, "generation")
    with torch.no_grad():
        errors = block_errors(model, context, made, DRAWN, proxy("generation")[0])
    assert list(errors) == DRAWN and max(errors.values()) < 1e-6
