"""What plugging in costs and how wrong a gradient is: zero where the context is exact."""

from dataclasses import replace

import pytest
import torch
from small_rounds import CASES, CPU, PAD, frozen, job_of, random_examples, same, state_of
from tiny_models import LAYERS, tiny

from leff.client import train as client
from leff.client.model import client_model
from leff.models import blocks, layer_prefix
from leff.models.quantised import quantised
from leff.runs import gap as instruments
from leff.runs.gap import gradient_error, plug_in_gap, plugged_in
from leff.tasks.encode import collate
from leff.tasks.held_out import held_out_loss
from leff.wire.messages import Segment
from leff.wire.tensors import unpack

BATCH = 4


def exact(model, kind, store, block):
    """A job for `block` with every other layer of the model around it."""
    around = range(block.start), range(block.stop, LAYERS)
    before, after = (frozen(model, store, layers) for layers in around)
    return job_of(model, kind, store, block, before, after)


def dropped(model, kind, store, block):
    """A job for `block` with only the layer just before it, if there is one."""
    before = frozen(model, store, range(block.start)[-1:])
    return job_of(model, kind, store, block, before)


def in_8_bits(model, kind, store, block):
    """A job for `block` with every other layer around it in 8 bits."""

    def segment(layers):
        parts = tuple(store.put(quantised(blocks(model)[i], 8)) for i in layers)
        return Segment(tuple(layers), parts, bits=8) if layers else None

    around = range(block.start), range(block.stop, LAYERS)
    return job_of(model, kind, store, block, *map(segment, around))


def measure(make, case, store, block=range(1, 3)):
    """Return model, examples, job, update and gap of one client's training."""
    model, examples = tiny(*case), random_examples(case[1], 10, seed=5)
    job = make(model, case[1], store, block)
    update = client.train(job, store.get, random_examples(case[1], 11), CPU)
    gap = plug_in_gap(model, job, update, store.get, examples, BATCH, CPU)
    return model, examples, job, update, gap


def error(model, job, store, examples):
    return gradient_error(model, job, store.get, examples, BATCH, CPU)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block", [range(0, 1), range(1, 3), range(3, 4)])
def test_an_exact_context_has_neither_gap_nor_gradient_error(case, block, store):
    model, examples, job, update, gap = measure(exact, case, store, block)
    assert (gap.client, gap.layers) == (3, tuple(block)) == (update.client, update.layers)
    assert gap.stand_in_before == pytest.approx(gap.full_before, rel=1e-6)
    assert gap.gap == pytest.approx(0, abs=1e-5)
    assert gap.full_after != gap.full_before
    assert error(model, job, store, examples) < 1e-10


@pytest.mark.parametrize("case", CASES)
def test_a_context_without_most_layers_has_both(case, store):
    model, examples, job, _, gap = measure(dropped, case, store)
    assert abs(gap.gap) > 1e-4
    assert abs(gap.stand_in_before - gap.full_before) > 1e-4
    assert error(model, job, store, examples) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_those_of_models_built_by_hand(case, store):
    model, examples, job, update, gap = measure(dropped, case, store)

    def loss(model):
        return held_out_loss(model, examples, batch_size=BATCH, pad_id=PAD)

    short = client_model(job, store.get, CPU)
    assert gap.stand_in_before == loss(short)
    # layer 0 is kept, so layers 1 and 2 are where they are in the full model
    short.load_state_dict(unpack(update.payload), strict=False)
    assert gap.stand_in_after == loss(short)
    assert gap.full_before == loss(model)
    model.load_state_dict(unpack(update.payload), strict=False)
    assert gap.full_after == loss(model)


@pytest.mark.parametrize("case", CASES[:2])
def test_the_gradient_error_by_hand(case, store):
    model, examples = tiny(*case), random_examples(case[1], 10, seed=5)
    job = dropped(model, case[1], store, range(2, 4))
    short = client_model(job, store.get, CPU)

    def gradient(model, layers):
        model.eval().requires_grad_(True)
        loss = model(**collate(examples, PAD)).loss
        parameters = [p for layer in layers for p in blocks(model)[layer].parameters()]
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()

    full, approximate = gradient(tiny(*case), (2, 3)), gradient(short, (1, 2))
    expected = float((approximate - full).square().sum() / full.square().sum())
    assert expected > 1e-3
    assert error(model, job, store, examples) == pytest.approx(expected, rel=1e-3)


def test_layers_that_move_to_other_places_are_plugged_in_by_their_full_numbers(store):
    model, examples, job, update, gap = measure(dropped, CASES[0], store, range(3, 4))
    short = client_model(job, store.get, CPU)  # layers 2 and 3, as 0 and 1
    trained = unpack(update.payload)
    for name, tensor in blocks(short)[1].named_parameters():
        tensor.data = trained.pop(f"{layer_prefix(model, 3)}{name}")
    short.load_state_dict(trained, strict=False)
    assert gap.stand_in_after == held_out_loss(short, examples, batch_size=BATCH, pad_id=PAD)


@pytest.mark.parametrize("make", [exact, in_8_bits])
def test_the_model_is_left_as_it_was(make, store):
    case = CASES[1]
    model, examples = tiny(*case).train(), random_examples(case[1], 6)
    job = make(model, case[1], store, range(1, 3))
    update = client.train(job, store.get, examples, CPU)
    blocks(model)[1].eval()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[3].grad = torch.ones_like(parameters[3])
    flags, modes = [p.requires_grad for p in parameters], [m.training for m in model.modules()]
    addresses, random = [p.data_ptr() for p in parameters], torch.get_rng_state()
    before = state_of(model)
    plug_in_gap(model, job, update, store.get, examples, BATCH, CPU)
    error(model, job, store, examples)
    assert same(before, state_of(model))
    assert flags == [p.requires_grad for p in parameters]
    assert modes == [m.training for m in model.modules()]
    assert addresses == [p.data_ptr() for p in parameters]
    assert [p.grad is None for p in parameters] == [i != 3 for i in range(len(parameters))]
    assert torch.equal(random, torch.get_rng_state())


def test_the_model_comes_back_after_an_error_too(store, monkeypatch):
    model, examples, job, update, _ = measure(exact, CASES[0], store)
    before, calls = state_of(model), []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 4:
            assert not same(before, state_of(model))
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(instruments, "held_out_loss", failing)
    with pytest.raises(KeyboardInterrupt):
        plug_in_gap(model, job, update, store.get, examples, BATCH, CPU)
    assert same(before, state_of(model))


def test_quantised_layers_compute_as_they_do_in_training(store):
    model, examples, job, _, gap = measure(in_8_bits, CASES[0], store)
    short = client_model(job, store.get, CPU)
    for module in short.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    short.train().requires_grad_(False)
    total = count = 0.0
    for start in range(0, len(examples), BATCH):
        batch = collate(examples[start : start + BATCH], PAD)
        weight = int((batch["labels"][:, 1:] != -100).sum())
        total, count = total + float(short(**batch).loss) * weight, count + weight
    assert gap.stand_in_before == pytest.approx(total / count, abs=1e-6)
    assert abs(gap.gap) < 0.01
    assert 0 < error(model, job, store, examples) < 0.01


def test_what_cannot_be_plugged_in(store):
    model, examples, job, update, _ = measure(exact, CASES[0], store)
    failed = replace(update, payload=b"", failure="gone")
    with pytest.raises(ValueError, match="client 3 failed: gone"):
        plug_in_gap(model, job, failed, store.get, examples, BATCH, CPU)
    other = exact(model, "generation", store, range(0, 1))
    with pytest.raises(ValueError, match="is not among what the job trains"):
        plug_in_gap(model, other, update, store.get, examples, BATCH, CPU)
    with pytest.raises(ValueError, match="nothing to learn from"):
        error(model, job, store, [])
    weight = torch.nn.Parameter(torch.ones(2))
    with (
        pytest.raises(ValueError, match=r"a \(1,\) is not among"),
        plugged_in({"a": weight}, {"a": torch.zeros(1)}),
    ):
        pass
