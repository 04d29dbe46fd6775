"""The client: what it builds, trains and sends, against plain loops over the full model."""

import math
from dataclasses import replace

import pytest
import torch
from small_rounds import (
    CASES,
    CPU,
    PAD,
    dropping,
    frozen,
    job_of,
    random_examples,
    same,
    state_of,
    whole,
    with_settings,
)
from tiny_models import DECODERS, LAYERS, batch, tiny
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.client import train as client
from leff.client.model import client_model
from leff.client.steps import Steps
from leff.methods.jobs import JobWriter
from leff.methods.method import RoundContext
from leff.models import blocks, half_words, layer_prefix, shell_state, tail_state, trainable_names
from leff.models import quantised as quantise
from leff.models.activations import fuse
from leff.models.quantised import QuantisedLinear
from leff.seeds import numpy_rng
from leff.tasks.encode import Example, collate
from leff.tasks.held_out import held_out_loss
from leff.wire.messages import Segment
from leff.wire.tensors import unpack


def quantised(model, kind, store, block, bits=8, **options):
    """A job for `block` with every other layer around it in few bits."""

    def segment(layers):
        parts = [store.put(quantise.quantised(blocks(model)[layer], bits)) for layer in layers]
        return Segment(tuple(layers), tuple(parts), bits=bits) if parts else None

    before, after = segment(range(block.start)), segment(range(block.stop, LAYERS))
    return job_of(model, kind, store, block, before=before, after=after, **options)


def plain_training(model, names, job, examples, block):
    """What local training is, written down again over the full model; changes it in place."""
    model.train().requires_grad_(False)
    for number, layer in enumerate(blocks(model)):
        layer.train(number in block)  # no dropout around the block
    model.config.use_cache = False  # with one, dropout in attention rounds otherwise
    parameters = dict(model.named_parameters())
    chosen = [parameters[name].requires_grad_(True) for name in names]
    settings = job.training
    optimizer = torch.optim.AdamW(
        chosen, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    torch.manual_seed(job.seed)
    rng, size = numpy_rng(job.seed, "order", 0), settings.step.batch_size
    order = list(rng.permutation(len(examples)))  # fits into one window of batches
    assert len(order) <= 8 * size
    order.sort(key=lambda i: len(examples[i].input_ids))
    rows = [order[start : start + size] for start in range(0, len(order), size)]
    losses = []
    for turn in rng.permutation(len(rows)):
        loss = model(**collate([examples[i] for i in rows[turn]], PAD)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(chosen, settings.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("block", [range(1, 3), range(0, 1), range(3, 4)])
def test_a_block_among_its_own_layers_trains_as_in_the_full_model(name, kind, block, store):
    model, examples = tiny(name, kind), random_examples(kind, 11)
    job = whole(model, kind, store, block)
    update = client.train(job, store.get, examples, CPU)
    names = trainable_names(model, block)
    fuse(model)  # as on the client
    with torch.random.fork_rng():
        losses = plain_training(model, names, job, examples, block)
    assert update.failure is None and update.steps == 3 == len(losses)
    assert update.losses == (losses[0], losses[-1])
    found = unpack(update.payload)
    assert sorted(found) == sorted(names)
    parameters = dict(model.named_parameters())
    assert same(found, {n: parameters[n].detach() for n in names})


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_only_block_and_tail_come_back_under_the_full_models_names(name, kind, store):
    model = tiny(name, kind)
    job = job_of(model, kind, store, range(2, 3), before=frozen(model, store, range(0, 1)))
    update = client.train(job, store.get, random_examples(kind, 6), CPU)
    found = unpack(update.payload)
    inside = {n for n in found if n.startswith(layer_prefix(model, 2))}
    assert inside == {layer_prefix(model, 2) + n for n, _ in blocks(model)[2].named_parameters()}
    tail = {n for n, _ in model.named_parameters() if n in tail_state(model)}
    assert tail and set(found) - inside == tail
    before = model.state_dict()
    assert all(found[n].shape == before[n].shape for n in found)
    changed = {n for n in found if not torch.equal(found[n], before[n])}
    assert changed & inside and changed & tail


def test_what_an_update_says_about_itself(store):
    model, examples = tiny("gpt2", "generation"), random_examples("generation", 11)
    job = whole(model, "generation", store, range(1, 3))
    update = client.train(job, store.get, examples, CPU)
    assert (update.round, update.client, update.layers) == (0, 3, (1, 2))
    assert (update.examples, update.steps, update.failure) == (11, 3, None)
    assert update.upload_bytes == len(update.payload) > 0 and update.download_bytes == 0
    assert len(update.layer_scores) == 2 and update.state_bytes > update.upload_bytes


@pytest.mark.parametrize("context", [whole, quantised])
def test_the_same_job_gives_the_same_update(context, store):
    model, examples = tiny("gpt2", "generation"), random_examples("generation", 9)
    job = context(model, "generation", store, range(1, 2))
    torch.manual_seed(0)
    one = client.train(job, store.get, examples, CPU)
    torch.manual_seed(1)
    two = client.train(job, store.get, examples, CPU)
    assert replace(one, train_seconds=0) == replace(two, train_seconds=0)
    other = client.train(replace(job, seed=8), store.get, examples, CPU)
    assert other.payload != one.payload


def test_the_seed_orders_examples_and_draws_dropout(store):
    examples = random_examples("generation", 4)  # one batch, so the order does not matter
    for make, differs in ((tiny, True), (dropping, False)):
        model = make("gpt2", "generation")
        jobs = [whole(model, "generation", store, range(1, 2), seed=seed) for seed in (1, 2)]
        a, b = (unpack(client.train(job, store.get, examples, CPU).payload) for job in jobs)
        close = all(torch.allclose(a[n], b[n], atol=2e-4) for n in a)
        assert close != differs


def test_training_leaves_global_randomness_and_the_parts_alone(store):
    model = tiny("gpt2", "generation")
    job = whole(model, "generation", store, range(1, 3))
    held = {part.digest: store.get(part) for part in job.parts}
    copies = {digest: {n: t.clone() for n, t in held[digest].items()} for digest in held}
    state = torch.get_rng_state()
    update = client.train(
        job, lambda part: held[part.digest], random_examples("generation", 6), CPU
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(same(held[d], copies[d]) for d in held)
    assert update.failure is None


def test_no_local_steps_give_the_weights_back_to_the_bit(store):
    model = tiny("gpt2", "generation")
    job = whole(model, "generation", store, range(1, 3), training=with_settings(epochs=0))
    update = client.train(job, store.get, random_examples("generation", 6), CPU)
    assert (update.steps, update.losses, update.failure) == (0, None, None)
    parameters = dict(model.named_parameters())
    found = unpack(update.payload)
    assert same(found, {n: parameters[n].detach() for n in found})


@pytest.mark.parametrize(
    ("epochs", "examples", "steps"),
    [(1, 9, 3), (2, 9, 6), (0.5, 9, 2), (0.14, 200, 7), (0.01, 9, 1), (1, 1, 1)],
)
def test_number_of_steps(epochs, examples, steps, store):
    model = tiny("gpt2", "generation")
    job = job_of(model, "generation", store, range(0, 1), training=with_settings(epochs=epochs))
    update = client.train(job, store.get, random_examples("generation", examples), CPU)
    assert update.steps == steps


def test_losses_are_means_of_the_first_and_last_quarter(store, monkeypatch):
    model = tiny("gpt2", "generation")
    job = job_of(model, "generation", store, range(1))
    monkeypatch.setattr(client, "local_steps", lambda *a: Steps([8.0, 6, 5, 4, 3, 3, 2, 1]))
    update = client.train(job, store.get, random_examples("generation", 6), CPU)
    assert update.losses == (7.0, 1.5)


def failed(update):
    assert update.payload == b"" and update.upload_bytes == 0 and update.losses is None
    assert update.layer_scores == ()
    return update.failure


def test_a_poisoned_weight_is_a_failure(store):
    model = tiny("gpt2", "generation")
    with torch.no_grad():
        model.transformer.h[2].mlp.c_fc.weight[0, 0] = float("nan")
    job = whole(model, "generation", store, range(1, 2))
    state = torch.get_rng_state()
    update = client.train(job, store.get, random_examples("generation", 6), CPU)
    assert "the loss was nan at step 1" in failed(update)
    assert torch.equal(state, torch.get_rng_state())


def test_a_poisoned_label_is_a_failure(store):
    model, examples = tiny("bert", "regression"), random_examples("regression", 9)
    examples[4] = Example(examples[4].input_ids, label=float("nan"))
    job = whole(model, "regression", store, range(1, 2))
    update = client.train(job, store.get, examples, CPU)
    assert "the loss was nan" in failed(update)
    assert 1 <= update.steps <= 3


def test_a_last_step_into_infinity_is_a_failure(store):
    model = tiny("gpt2", "generation")
    settings = with_settings(learning_rate=math.inf)
    job = whole(model, "generation", store, range(1, 2), training=settings)
    update = client.train(job, store.get, random_examples("generation", 4), CPU)
    assert failed(update) == "a trained weight is not finite" and update.steps == 1


def test_a_client_without_examples_is_a_failure(store):
    job = job_of(tiny("gpt2", "generation"), "generation", store, range(1))
    assert "no examples" in failed(client.train(job, store.get, [], CPU))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_client_never_has_the_layers_that_it_was_not_sent(name, kind, store):
    model = tiny(name, kind)
    job = job_of(model, kind, store, range(2, 3), before=frozen(model, store, range(0, 1)))
    built = client_model(job, store.get, CPU)
    per_layer = sum(p.numel() for p in blocks(model)[0].parameters())
    inside = sum(p.numel() for p in blocks(built).parameters())
    assert type(built) is type(model) and built.training
    assert inside == 2 * per_layer and len(blocks(built)) == built.config.num_hidden_layers == 2
    rest = sum(p.numel() for p in model.parameters()) - LAYERS * per_layer
    assert sum(p.numel() for p in built.parameters()) == 2 * per_layer + rest


def test_no_weight_has_memory_before_it_arrives(store, monkeypatch):
    model = tiny("gpt2", "generation")
    job = job_of(model, "generation", store, range(2, 3))
    held = {part.digest: store.get(part) for part in job.parts}
    arrived = {t.data_ptr() for tensors in held.values() for t in tensors.values()}
    made = set()
    original = nn.Module.register_parameter

    def watch(self, name, parameter):
        if parameter is not None and not parameter.is_meta and parameter.dim() > 1:
            made.add(parameter.data_ptr())
        original(self, name, parameter)

    monkeypatch.setattr(nn.Module, "register_parameter", watch)
    client_model(job, lambda part: held[part.digest], CPU)
    assert made and made <= arrived


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "deberta-v3"])
def test_a_quantised_client_has_no_plain_linear_in_its_frozen_layers(name, store):
    kind = "generation" if name in DECODERS else "classification"
    model = tiny(name, kind)
    built = client_model(quantised(model, kind, store, range(2, 3)), store.get, CPU)
    assert len(blocks(built)) == LAYERS
    for index, layer in enumerate(blocks(built)):
        wide = [n for n, p in layer.named_parameters() if p.dim() > 1]
        small = [m for m in layer.modules() if isinstance(m, QuantisedLinear)]
        assert bool(wide) == (index == 2) and bool(small) == (index != 2)
        held = sum(t.nbytes for t in (*layer.parameters(), *layer.buffers()))
        full = sum(p.nbytes for p in blocks(model)[index].parameters())
        assert held == full if index == 2 else held < 0.35 * full


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_generate_works_on_a_quantised_client_and_says_the_same(name, store):
    model = tiny(name, "generation")
    built = client_model(quantised(model, "generation", store, range(2, 3)), store.get, CPU)
    found = {}
    for which, each in (("full", model), ("quantised", built)):
        found[which] = each.eval().generate(
            **batch(), max_new_tokens=6, do_sample=False, pad_token_id=PAD, output_scores=True,
            return_dict_in_generate=True, eos_token_id=None,
        )  # fmt: skip
    assert found["quantised"].sequences.shape == (2, 15)
    full, small = found["full"].scores[0], found["quantised"].scores[0]
    assert float((full - small).norm() / full.norm()) < 0.05


def moves(job, store, model, examples):
    """Where one job takes the weights, as one vector."""
    found = unpack(client.train(job, store.get, examples, CPU).payload)
    before = model.state_dict()
    return torch.cat([(found[name] - before[name]).flatten() for name in sorted(found)])


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_a_block_among_quantised_layers_trains_nearly_as_in_the_full_model(name, store):
    """The first step of AdamW has the size of the rate, so compare where it goes."""
    kind = "generation" if name in DECODERS else "classification"
    model, examples = dropping(name, kind), random_examples(kind, 4)
    settings = with_settings(learning_rate=1e-3, weight_decay=0.0)
    jobs = [f(model, kind, store, range(1, 2), training=settings) for f in (whole, quantised)]
    found = [moves(job, store, model, examples) for job in jobs]
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.9


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_frozen_layers_in_16_bits_train_as_layers_rounded_to_them(name, store):
    """In fp32: the weights alone are in 16 bits; to the bit where torch multiplies the same way."""
    kind = "generation" if name in DECODERS else "classification"
    model, examples = dropping(name, kind), random_examples(kind, 9)
    settings = with_settings(learning_rate=1e-3, weight_decay=0.0)
    job = quantised(model, kind, store, range(1, 2), 16, training=settings)
    plain = whole(model, kind, store, range(1, 2), training=settings)
    for layer in (0, 2, 3):
        for module in blocks(model)[layer].modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.weight.data = module.weight.data.bfloat16().float()
    rounded = whole(model, kind, store, range(1, 2), training=settings)
    half, same_values, full = (
        client.train(j, store.get, examples, CPU) for j in (job, rounded, plain)
    )
    assert half.payload != full.payload
    assert half.losses == pytest.approx(same_values.losses, rel=1e-5)
    if name != "gpt2":  # whose Conv1D holds its weight the other way round
        assert half.payload == same_values.payload
    weights = sum(m.weight.numel() for layer in (0, 2, 3) for m in blocks(model)[layer].modules()
                  if isinstance(m, nn.Linear | Conv1D))  # fmt: skip
    assert same_values.state_bytes - half.state_bytes == 2 * weights


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_bfloat16_passes_through_quantised_layers(name, bits, store):
    kind = "generation" if name in DECODERS else "classification"
    model, examples = dropping(name, kind), random_examples(kind, 4)
    found = []
    for precision in ("float32", "bfloat16"):
        settings = with_settings(learning_rate=1e-3, weight_decay=0.0, precision=precision)
        job = quantised(model, kind, store, range(1, 2), bits, training=settings)
        found.append(moves(job, store, model, examples))
    assert not torch.equal(*found)
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.95


@pytest.mark.parametrize(
    ("name", "kind"), [*CASES, ("llama-tied", "generation"), ("roberta", "classification")]
)
def test_words_in_16_bits_train_as_words_rounded_to_them(name, kind, store):
    model, examples = tiny(name, kind), random_examples(kind, 9)
    job = whole(model, kind, store, range(1, 3))
    half = replace(job, shell=store.put(half_words(model, shell_state(model))))
    words = model.get_input_embeddings().weight
    words.data = words.data.half().float()
    rounded = whole(model, kind, store, range(1, 3))
    one, two, full = (client.train(j, store.get, examples, CPU) for j in (half, rounded, job))
    assert one.payload == two.payload != full.payload
    assert one.losses == two.losses and one.layer_scores == two.layer_scores
    assert two.state_bytes - one.state_bytes == words.numel() * 2
    assert job.shell.size_bytes - half.shell.size_bytes == pytest.approx(words.numel() * 2, abs=64)


@pytest.mark.parametrize(("bits", "smaller"), [(32, False), (16, True)])
def test_a_job_writer_sends_words_in_the_bits_asked_for(bits, smaller, store):
    model = tiny("gpt2", "generation")
    writer = JobWriter(store, "generation", PAD, shell_bits=bits)
    segments = {3: (writer.block(model, range(LAYERS)),)}
    (job,) = writer.jobs(writer.frame(model), RoundContext(0, 0, with_settings()), segments)
    shell = store.get(job.shell)
    assert (shell["transformer.wte.weight"].dtype == torch.float16) == smaller
    assert shell["transformer.wpe.weight"].dtype == torch.float32


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_evaluate_is_the_mean_over_labels_whatever_the_batch_size(name, kind):
    model, examples = tiny(name, kind).train(), random_examples(kind, 7)
    before, state = state_of(model), torch.get_rng_state()
    losses = [held_out_loss(model, examples, batch_size=b, pad_id=PAD) for b in (1, 3, 7)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    model.eval()
    with torch.no_grad():
        wanted = float(model(**collate(examples, PAD)).loss)
    assert losses[-1] == pytest.approx(wanted, rel=1e-6)
    assert same(before, state_of(model)) and torch.equal(state, torch.get_rng_state())


def test_evaluate_leaves_the_mode_and_needs_labels():
    model = tiny("gpt2", "generation").train()
    examples = random_examples("generation", 2)
    held_out_loss(model, examples, batch_size=2, pad_id=PAD)
    assert model.training
    silent = Example(examples[0].input_ids, prompt_tokens=len(examples[0].input_ids))
    alone = held_out_loss(model, examples, batch_size=1, pad_id=PAD)
    assert held_out_loss(model, [*examples, silent], batch_size=1, pad_id=PAD) == alone
    for nothing in ([], [silent]):
        with pytest.raises(ValueError, match="nothing to evaluate"):
            held_out_loss(model, nothing, batch_size=2, pad_id=PAD)
