"""FedBitFit: biases and the classifier are averaged, all else keeps its bits."""

import pytest
import torch
from small_rounds import (
    CPU,
    TRAINING,
    clients_of,
    fleet_of,
    invented,
    recipe,
    run_rounds,
    same,
    state_of,
)
from tiny_models import tiny

from leff.methods.method import RoundContext
from leff.methods.sums import add_up
from leff.wire.messages import Capacity
from leff.wire.tensors import unpack

KINDS = [("gpt2", "generation"), ("deberta-v3", "classification"), ("bert", "regression")]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_only_biases_and_the_classifier_change(name, kind, store, tmp_path):
    model, before = tiny(name, kind), state_of(tiny(name, kind))
    made = recipe("fedbitfit", model, kind, store)
    run_rounds(model, made, fleet_of(clients_of(kind, (5, 6, 4)), (4,) * 3, store, CPU), tmp_path)
    after = state_of(model)
    changed = {n for n in before if not same({n: before[n]}, {n: after[n]})}
    inside = {n for n in before if n.endswith("bias") and (".layer." in n or ".h." in n)}
    ends = {"gpt2": {"transformer.ln_f.bias"}}.get(name, {"classifier.weight", "classifier.bias"})
    assert changed == inside | ends


def test_means_by_hand(store):
    model = tiny("gpt2", "generation")
    made = recipe("fedbitfit", model, "generation", store)
    reports = [Capacity(client, 1, 5) for client in range(3)]
    jobs = made.plan(model, RoundContext(0, 0, TRAINING), reports).jobs
    assert len({job.tuned.part for job in jobs}) == 1
    updates = [invented(job, (5, 1, 2)[job.client], job.client) for job in jobs]
    made.merge(model, add_up(updates))
    tensors = [unpack(update.payload) for update in updates]
    for name, found in model.named_parameters():
        if name in tensors[0]:
            a, b, c = (t[name].double() for t in tensors)
            torch.testing.assert_close(
                found.double(), (5 * a + b + 2 * c) / 8, rtol=1e-6, atol=1e-6
            )
