"""AdamW with its state in 8 bits, against AdamW."""

from dataclasses import replace

import pytest
import torch
from small_rounds import CPU, job_of, random_examples, with_settings
from tiny_models import tiny

from leff.client import train as client
from leff.client.memory import state_bytes
from leff.models.optimizer import make_optimizer
from leff.wire.tensors import unpack


def trained(name, shape, steps=20):
    """Where a least-squares problem's weights go, and what the optimizer keeps for them."""
    generator = torch.Generator().manual_seed(0)
    goal = torch.randn(shape, generator=generator)
    model = torch.nn.Linear(shape[1], shape[0], bias=False)
    with torch.no_grad():
        model.weight.zero_()
    optimizer = make_optimizer(name, [model.weight], learning_rate=1e-2, weight_decay=0.01)
    before = state_bytes(model, optimizer)
    for _ in range(steps):
        optimizer.zero_grad()
        noise = torch.randn(shape, generator=generator)
        (model.weight - goal - 0.1 * noise).square().sum().backward()
        optimizer.step()
    return model.weight.detach(), state_bytes(model, optimizer) - before - model.weight.nbytes


def test_8_bits_follow_adamw():
    """Within a tenth of the way, with a quarter of the state and the table of 8-bit values."""
    (plain, wide), (small, narrow) = (trained(n, (64, 256)) for n in ("adamw", "adamw8bit"))
    assert float((small - plain).norm() / plain.norm()) < 0.1
    assert not torch.equal(small, plain)
    values, blocks = 64 * 256, 64
    assert wide == 8 * values + 4
    assert narrow == 2 * values + 2 * 4 * blocks + 2 * 4 * 256


def test_small_tensors_keep_fp32_moments():
    (plain, _), (small, narrow) = (trained(n, (16, 16)) for n in ("adamw", "adamw8bit"))
    torch.testing.assert_close(small, plain, rtol=1e-5, atol=1e-6)
    assert narrow == 8 * 256


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_client_trains_with_it_and_repeats_to_the_bit(name, store):
    model, examples = tiny(name, "generation"), random_examples("generation", 9)
    jobs = [
        job_of(model, "generation", store, range(1, 3), training=with_settings(optimizer=optimizer))
        for optimizer in ("adamw", "adamw8bit", "adamw8bit")
    ]
    plain, one, two = (client.train(job, store.get, examples, CPU) for job in jobs)
    assert one.failure is None and one.payload != plain.payload
    assert replace(one, train_seconds=0) == replace(two, train_seconds=0)
    assert one.losses[-1] == pytest.approx(plain.losses[-1], rel=0.05)
    assert unpack(one.payload).keys() == unpack(plain.payload).keys()
