"""Bytes that training holds, against counts by hand."""

import copy

import pytest
import torch
from small_rounds import CPU, job_of, random_examples
from tiny_models import tiny
from torch import nn

from leff.client import train as client
from leff.client.memory import state_bytes
from leff.models import blocks, family_of, shell_state, tail_state
from leff.models.quantised import quantised, rebuilt

ADAM_STEP = 4  # a counter per parameter, fp32


def one_step(model, batch):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(batch).square().mean().backward()
    optimizer.step()
    return optimizer


def test_plain_weights_gradients_and_moments():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model[1].parameters())
    model[0].requires_grad_(False)
    model.register_buffer("table", torch.zeros(7, dtype=torch.int64))
    assert state_bytes(model, optimizer) == 4 * (20 + 12) + 56  # before any step
    optimizer = one_step(model, torch.ones(4, 3))
    assert state_bytes(model, optimizer) == 4 * (20 + 12) + 56 + 12 * 12 + 2 * ADAM_STEP


def test_shared_storage_counts_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    model.register_buffer("row", model[0].weight.detach()[1])
    assert state_bytes(model, torch.optim.AdamW(model.parameters())) == 64


@pytest.mark.parametrize(
    ("bits", "held"),
    [(16, 64 * 32 * 2), (8, 64 * 32 + 32 * 4), (4, 64 * 32 // 2 + 64 * 32 // 64 * 4)],
)
def test_few_bits_count_with_their_scales(bits, held):
    small = rebuilt(
        nn.Sequential(nn.Linear(64, 32)), quantised(nn.Sequential(nn.Linear(64, 32)), bits)
    )
    model = nn.Sequential(nn.Linear(64, 64), small)
    plain, bias = 4 * (64 * 64 + 64), 32 * 4
    assert state_bytes(model, torch.optim.AdamW(model[0].parameters())) == plain + held + bias
    optimizer = one_step(model, torch.randn(2, 64))
    assert state_bytes(model, optimizer) == 4 * plain + held + bias + 2 * ADAM_STEP


@pytest.mark.parametrize(
    ("name", "kind"), [("gpt2", "generation"), ("bert", "classification")], ids=str
)
def test_an_update_says_what_its_client_held(name, kind, store):
    model = tiny(name, kind)
    job = job_of(model, kind, store, range(1, 3))
    update = client.train(job, store.get, random_examples(kind, 6), CPU)
    layers = [p for layer in blocks(model)[1:3] for p in layer.parameters()]
    trained = [*layers, *tail_state(model).values()]
    weights = sum(t.nbytes for t in [*trained, *shell_state(model).values()])
    own = copy.deepcopy(dict(model.named_buffers()))
    inside = f"{family_of(model).blocks}."
    buffers = sum(t.nbytes for n, t in own.items() if not n.startswith(inside))
    moments = sum(3 * t.nbytes + ADAM_STEP for t in trained)
    assert update.state_bytes == weights + buffers + moments
