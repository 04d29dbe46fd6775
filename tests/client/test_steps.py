"""What local training can do beside plain steps, each against a computation by hand."""

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import (
    CASES,
    CPU,
    PAD,
    dropping,
    frozen,
    job_of,
    random_examples,
    with_settings,
)
from tiny_models import tiny
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from leff.client import steps
from leff.client import train as client
from leff.client.model import client_model
from leff.client.steps import WINDOW, batches, like_length_batches
from leff.models import blocks, layer_prefix, tail_state
from leff.models.quantised import quantised
from leff.tasks.encode import collate
from leff.wire.messages import Segment
from leff.wire.tensors import unpack

STEP = {"learning_rate": 1e-3, "weight_decay": 0.0, "max_grad_norm": math.inf}


def labelled(*labels):
    rows = random_examples("classification", len(labels))
    return [replace(row, label=label) for row, label in zip(rows, labels, strict=True)]


def gradients(model, kind, store, examples, monkeypatch, block=range(1, 3), **settings):
    """The gradients of one step over all examples, as they reach the clipping, by name."""
    found = {}

    def clip(parameters, norm):
        found["gradients"] = [p.grad.clone() for p in parameters if p.grad is not None]

    training = with_settings(batch_size=len(examples), **{**STEP, **settings})
    job = job_of(model, kind, store, block, training=training)
    with monkeypatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", clip)
        update = client.train(job, store.get, examples, CPU)
    assert update.failure is None and update.steps == 1
    return torch.cat([g.flatten() for g in found["gradients"]]), update


def test_layers_around_the_block_have_no_dropout(store, monkeypatch):
    kind, modes = "classification", []
    model = tiny("bert", kind)
    before, after = (
        Segment((layer,), (store.put(quantised(blocks(model)[layer], 8)),), bits=8)
        for layer in (0, 3)
    )
    job = job_of(model, kind, store, range(1, 3), before, after)
    real = steps._add_gradients

    def noting(trained, *rest):
        modes.append([{m.training for m in layer.modules()} for layer in blocks(trained)])
        return real(trained, *rest)

    monkeypatch.setattr(steps, "_add_gradients", noting)
    assert client.train(job, store.get, random_examples(kind, 5), CPU).failure is None
    assert modes and all(mode == [{False}, {True}, {True}, {False}] for mode in modes)


# Calibrated classification


def test_calibration_adds_log_frequencies_to_the_logits(store, monkeypatch):
    """Loss and classifier bias: softmax(z + log π) - y, π = (3 + 1, 1 + 1) / 6 by hand."""
    model, examples = dropping("bert", "classification"), labelled(0, 0, 1, 0)
    job = job_of(model, "classification", store, range(1, 3))
    built = client_model(job, store.get, CPU)
    inputs = collate(examples, PAD)
    labels = inputs.pop("labels")
    with torch.no_grad():
        shifted = built(**inputs).logits + torch.tensor([4 / 6, 2 / 6]).log()
    found, update = gradients(
        model, "classification", store, examples, monkeypatch, calibrated=True
    )
    assert update.losses[0] == pytest.approx(float(functional.cross_entropy(shifted, labels)))
    wanted = (shifted.softmax(1) - functional.one_hot(labels, 2)).mean(0)
    torch.testing.assert_close(found[-2:], wanted, rtol=1e-5, atol=1e-7)


def test_calibration_with_equal_counts_is_the_plain_loss(store, monkeypatch):
    model = dropping("bert", "classification")
    for labels, equal in (((0, 1, 1, 0), True), ((0, 0, 0, 1), False)):
        plain, calibrated = (
            gradients(model, "classification", store, labelled(*labels), monkeypatch, calibrated=c)[
                0
            ]
            for c in (False, True)
        )
        assert torch.allclose(plain, calibrated, rtol=1e-4, atol=1e-7) == equal


def test_a_label_that_a_client_does_not_have_is_counted_too(store):
    """All labels 0: π = (n + 1, 1) / (n + 2), so that nothing is infinite."""
    model = tiny("bert", "classification")
    job = job_of(model, "classification", store, range(1), training=with_settings(calibrated=True))
    update = client.train(job, store.get, labelled(0, 0, 0), CPU)
    assert update.failure is None and math.isfinite(update.losses[0])


@pytest.mark.parametrize("least", [0.4, 0.41])
def test_two_labels_of_three_teach_how_they_differ(least, store):
    """A client with such a share of a second label is calibrated without any of the third."""
    settings = with_settings(calibrated=True, calibrated_from=least)
    job = job_of(
        tiny("bert", "classification"), "classification", store, range(1), training=settings
    )
    three = SimpleNamespace(config=SimpleNamespace(num_labels=3))
    prior = steps._log_prior(three, job, labelled(0, 0, 0, 2, 2), CPU)
    assert (prior is None) == (least > 0.4)
    if prior is not None:
        assert torch.allclose(prior.exp(), torch.tensor([4, 1, 3]) / 8)


@pytest.mark.parametrize(("least", "plain"), [(0.0, False), (0.4, False), (0.41, True)])
def test_with_too_small_a_share_of_a_second_label_the_loss_is_plain(
    least, plain, store, monkeypatch
):
    model, examples = dropping("bert", "classification"), labelled(0, 0, 0, 1, 1)

    def found(**settings):
        return gradients(model, "classification", store, examples, monkeypatch, **settings)[0]

    chosen = found(calibrated=True, calibrated_from=least)
    assert torch.equal(chosen, found(calibrated=not plain))
    assert not torch.equal(chosen, found(calibrated=plain))


@pytest.mark.parametrize(("name", "kind"), [CASES[0], CASES[3]])
def test_calibration_is_for_classification_only(name, kind, store):
    model, examples = tiny(name, kind), random_examples(kind, 6)
    payloads = {
        client.train(
            job_of(model, kind, store, range(1), training=with_settings(calibrated=flag)),
            store.get,
            examples,
            CPU,
        ).payload
        for flag in (False, True)
    }
    assert len(payloads) == 1


# FedProx


def test_the_proximal_term_pulls_towards_the_start(store, monkeypatch):
    """Two steps on the same batch: the second gradient has μ (θ1 - θ0) more than without."""
    model, examples = dropping("gpt2", "generation"), random_examples("generation", 4)
    seen = {}

    def clip(parameters, norm):
        state = torch.cat([p.detach().flatten() for p in parameters])
        seen[mu].append((state, torch.cat([p.grad.flatten() for p in parameters])))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    for mu in (0.0, 3.0):
        seen[mu] = []
        job = job_of(model, "generation", store, range(1, 3),
                     training=with_settings(epochs=2, proximal=mu, **STEP))  # fmt: skip
        assert client.train(job, store.get, examples, CPU).steps == 2
    (start, first), (after, second) = seen[0.0]
    (same_start, pulled_first), (same_after, pulled) = seen[3.0]
    assert torch.equal(first, pulled_first) and torch.equal(start, same_start)
    assert torch.equal(after, same_after) and not torch.equal(start, after)
    torch.testing.assert_close(pulled - second, 3.0 * (after - start), rtol=0, atol=1e-6)


def test_the_proximal_term_is_clipped_with_the_rest(store):
    """Clipped to nothing, neither gradient nor pull moves a weight."""
    model, examples = tiny("gpt2", "generation"), random_examples("generation", 8)
    training = with_settings(proximal=1e3, epochs=3, **{**STEP, "max_grad_norm": 0.0})
    job = job_of(model, "generation", store, range(1, 3), training=training)
    found = unpack(client.train(job, store.get, examples, CPU).payload)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in found.items())


# bfloat16


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_bfloat16_is_in_the_products_alone(name, kind, store, monkeypatch):
    model, examples = dropping(name, kind), random_examples(kind, 4)
    dtypes = Counter()

    def product(module, arguments, output):
        if isinstance(module, nn.Linear | Conv1D):
            dtypes[output.dtype] += 1

    original = client_model

    def watched(*arguments):
        built = original(*arguments)
        for module in built.modules():
            module.register_forward_hook(product)
        return built

    full, plain = gradients(model, kind, store, examples, monkeypatch)
    monkeypatch.setattr("leff.client.model.client_model", watched)
    half, update = gradients(model, kind, store, examples, monkeypatch, precision="bfloat16")
    assert dtypes.keys() == {torch.bfloat16}
    assert half.dtype == torch.float32
    assert {t.dtype for t in unpack(update.payload).values()} == {torch.float32}
    assert 0 < float((half - full).norm() / full.norm()) < 0.03  # bf16 keeps 8 bits
    assert update.losses[0] == pytest.approx(plain.losses[0], rel=0.01)
    assert update.losses != plain.losses and update.state_bytes == plain.state_bytes


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_loss_of_bfloat16_is_in_fp32(calibrated, store):
    """A bf16 loss would have 8 significant bits, with 16 zeros behind them."""
    model = tiny("bert", "classification")
    job = job_of(model, "classification", store, range(1, 3),
                 training=with_settings(precision="bfloat16", calibrated=calibrated))  # fmt: skip
    losses = client.train(job, store.get, labelled(0, 1, 1, 0, 0, 1, 0, 1), CPU).losses
    assert any(int(np.float32(loss).view(np.uint32)) & 0xFFFF for loss in losses)


# Batches of like length


@given(st.lists(st.integers(1, 60), min_size=1, max_size=150), st.integers(1, 9), st.integers(0, 9))
def test_batches_hold_every_example_once(lengths, size, seed):
    found = like_length_batches(np.array(lengths), size, np.random.default_rng(seed))
    assert sorted(i for rows in found for i in rows) == list(range(len(lengths)))
    short = [len(rows) for rows in found if len(rows) != size]
    assert len(found) == math.ceil(len(lengths) / size) and len(short) <= 1


@given(st.integers(0, 20))
def test_each_window_of_a_random_order_is_cut_by_length(seed):
    size, count = 3, 2 * WINDOW * 3
    lengths = np.random.default_rng(100 + seed).integers(1, 9, count)
    found = like_length_batches(lengths, size, np.random.default_rng(seed))
    order = np.random.default_rng(seed).permutation(count)
    wanted = []
    for window in (order[: WINDOW * size], order[WINDOW * size :]):
        by_length = sorted(window.tolist(), key=lambda i: lengths[i])  # stable
        wanted += [tuple(by_length[i : i + size]) for i in range(0, len(by_length), size)]
    assert {tuple(rows.tolist()) for rows in found} == set(wanted)
    assert [tuple(rows.tolist()) for rows in found] != wanted  # and shuffled


def test_like_lengths_need_less_padding():
    lengths = np.random.default_rng(0).integers(5, 60, 640)
    found = like_length_batches(lengths, 8, np.random.default_rng(1))
    plain = np.random.default_rng(1).permutation(640).reshape(-1, 8)
    padded = [sum(8 * lengths[rows].max() for rows in batches) for batches in (found, plain)]
    assert padded[0] < 1.15 * lengths.sum() < 1.4 * lengths.sum() < padded[1]


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own(store):
    model = tiny("gpt2", "generation")
    examples = random_examples("generation", 9)
    job = job_of(model, "generation", store, range(1), training=with_settings(epochs=2))
    rows = [
        tuple(row[mask.bool()].tolist())
        for found in batches(examples, job, CPU)
        for row, mask in zip(found["input_ids"], found["attention_mask"], strict=True)
    ]
    wanted = sorted(tuple(e.input_ids.tolist()) for e in examples)
    assert sorted(rows[:9]) == sorted(rows[9:]) == wanted
    assert rows[:9] != rows[9:]


# A batch in parts


def uneven(kind):
    """Eight examples of one step; of a language model's, parts have few labels, many, and none."""
    examples = random_examples(kind, 8)
    if kind != "generation":
        return examples
    examples.sort(key=lambda e: len(e.input_ids))  # as a batch has them
    sizes = [len(e.input_ids) for e in examples]
    prompts = [sizes[0], sizes[1], sizes[2] - 1, 2, 0, sizes[5], 0, 3]
    return [replace(e, prompt_tokens=n) for e, n in zip(examples, prompts, strict=True)]


def apart(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_add_up_to_the_whole_batchs_gradient(name, kind, parts, store, monkeypatch):
    """To rounding, whatever number of labels each part has."""
    model, examples = dropping(name, kind), uneven(kind)
    whole, plain = gradients(model, kind, store, examples, monkeypatch)
    found, update = gradients(model, kind, store, examples, monkeypatch, accumulation=parts)
    assert apart(found, whole) < 1e-5
    assert update.losses == pytest.approx(plain.losses, rel=1e-6)
    assert update.layer_scores == pytest.approx(plain.layer_scores, rel=1e-4)


def test_parts_have_the_loss_of_the_clients_own_labels(store, monkeypatch):
    model, examples = dropping("bert", "classification"), labelled(0, 0, 1, 0, 0, 0)
    found = [
        gradients(model, "classification", store, examples, monkeypatch, calibrated=True,
                  accumulation=parts)[0]
        for parts in (1, 3)
    ]  # fmt: skip
    assert apart(*found) < 1e-5


@pytest.mark.parametrize(("rows", "sizes"), [(8, [2, 2, 2, 2]), (5, [2, 2, 1]), (1, [1])])
def test_no_more_than_a_part_is_done_at_a_time(rows, sizes, store, monkeypatch):
    model, seen, original = dropping("gpt2", "generation"), [], client_model

    def watched(*arguments):
        built = original(*arguments)
        blocks(built)[0].register_forward_hook(lambda m, a, output: seen.append(len(a[0])))
        return built

    monkeypatch.setattr("leff.client.model.client_model", watched)
    job = job_of(model, "generation", store, range(1, 3),
                 training=with_settings(batch_size=8, accumulation=4))  # fmt: skip
    update = client.train(job, store.get, random_examples("generation", rows), CPU)
    assert update.steps == 1 and seen == sizes


def test_pull_and_clipping_are_once_a_step(store, monkeypatch):
    """The second step's gradient with μ (θ1 - θ0) in it; a part's own pull would count twice."""
    model, examples = dropping("gpt2", "generation"), random_examples("generation", 4)
    seen = {}

    def clip(parameters, norm):
        state = torch.cat([p.detach().flatten() for p in parameters])
        seen[parts].append((state, torch.cat([p.grad.flatten() for p in parameters])))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    for parts in (1, 2):
        seen[parts] = []
        training = with_settings(epochs=2, proximal=30.0, accumulation=parts, **STEP)
        job = job_of(model, "generation", store, range(1, 3), training=training)
        assert client.train(job, store.get, examples, CPU).steps == 2
    pull = 30.0 * (seen[1][1][0] - seen[1][0][0])
    assert [len(seen[parts]) for parts in (1, 2)] == [2, 2]
    # where a gradient is rounding noise, as key biases' are, AdamW's first step may turn
    assert float((seen[2][1][1] - seen[1][1][1]).norm()) < 0.1 * float(pull.norm())


def test_a_step_without_any_label_is_a_failure_in_parts_too(store):
    examples = [replace(e, prompt_tokens=len(e.input_ids)) for e in uneven("generation")]
    job = job_of(tiny("gpt2", "generation"), "generation", store, range(1),
                 training=with_settings(accumulation=2))  # fmt: skip
    assert "the loss was nan at step 1" in client.train(job, store.get, examples, CPU).failure


# Importance


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_layer_scores_are_means_over_steps_of_squared_gradient_times_weight(name, kind, store):
    """Without clipping by hand: two steps of AdamW over the full model's own layers."""
    model, examples = dropping(name, kind), random_examples(kind, 8)
    settings = with_settings(learning_rate=1e-2, max_grad_norm=1e-3, proximal=5.0)
    job = job_of(
        model, kind, store, range(1, 3), training=settings, before=frozen(model, store, range(1))
    )
    update = client.train(job, store.get, examples, CPU)
    built = client_model(job, store.get, CPU).requires_grad_(False)
    trained = [
        p.requires_grad_(True)
        for n, p in built.named_parameters()
        if n in tail_state(built) or n.startswith((layer_prefix(built, 1), layer_prefix(built, 2)))
    ]
    start = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=settings.weight_decay)
    scores = np.zeros(2)
    found = list(batches(examples, job, CPU))
    assert len(found) == 2
    for batch in found:
        optimizer.zero_grad()
        built(**batch).loss.backward()
        for i, layer in enumerate(blocks(built)[1:3]):
            for p in layer.parameters():
                taylor = p.grad.double() * p.detach().double()
                scores[i] += float(taylor.square().sum()) / 2
        for p, before in zip(trained, start, strict=True):
            p.grad += 5.0 * (p.detach() - before)
        torch.nn.utils.clip_grad_norm_(trained, 1e-3)
        optimizer.step()
    assert update.layer_scores == pytest.approx(scores.tolist(), rel=1e-4)
    assert len(set(update.layer_scores)) == 2


def test_without_steps_there_are_no_scores(store):
    model = tiny("gpt2", "generation")
    job = job_of(model, "generation", store, range(1, 3), training=with_settings(epochs=0))
    assert client.train(job, store.get, random_examples("generation", 6), CPU).layer_scores == ()
