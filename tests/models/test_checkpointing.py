"""Activation checkpointing: the same to the bit from less memory; and where there is no graph."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small_rounds import CASES, CPU, frozen, job_of, random_examples, with_settings
from tiny_models import LAYERS, tiny

from leff.client import train as client
from leff.client.model import client_model
from leff.models import blocks, trainable_names
from leff.models.quantised import quantised
from leff.wire.messages import Segment, Tuned

BLOCK = range(1, 3)


def job_for(name, kind, store, bits=32, **settings):
    """Layer 0 frozen, 1 and 2 trained, 3 frozen."""
    model = tiny(name, kind)

    def segment(layer):
        if bits == 32:
            return frozen(model, store, range(layer, layer + 1))
        return Segment((layer,), (store.put(quantised(blocks(model)[layer], bits)),), bits=bits)

    return job_of(model, kind, store, BLOCK, before=segment(0), after=segment(3),
                  training=with_settings(**settings))  # fmt: skip


def watch(monkeypatch, look):
    """Call `look(layer, module)` for every layer of the models that clients make."""
    original = client_model

    def watched(*arguments):
        built = original(*arguments)
        for layer, module in enumerate(blocks(built)):
            look(layer, module)
        return built

    monkeypatch.setattr("leff.client.model.client_model", watched)


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("options", [{}, {"accumulation": 2}, {"precision": "bfloat16"}], ids=str)
def test_the_same_update_to_the_bit(name, kind, options, store):
    """With dropout, which the second run draws again."""
    examples = random_examples(kind, 9)
    one, two = (
        client.train(
            job_for(name, kind, store, checkpointing=flag, **options), store.get, examples, CPU
        )
        for flag in (False, True)
    )
    assert replace(one, train_seconds=0) == replace(two, train_seconds=0)
    assert one.failure is None


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_the_same_update_to_the_bit_among_quantised_layers(bits, store):
    payloads = {
        client.train(
            job_for("gpt2", "generation", store, bits, checkpointing=flag),
            store.get,
            random_examples("generation", 9),
            CPU,
        ).payload
        for flag in (False, True)
    }
    assert len(payloads) == 1


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_layers_with_a_graph_run_twice(name, kind, store, monkeypatch):
    runs = Counter()

    def look(layer, module):
        first = next(m for m in module.modules() if next(m.children(), None) is None)
        first.register_forward_hook(lambda *_: runs.update([layer]))

    watch(monkeypatch, look)
    found = []
    for flag in (False, True):
        runs.clear()
        job = job_for(name, kind, store, checkpointing=flag)
        client.train(job, store.get, random_examples(kind, 8), CPU)
        found.append([runs[layer] for layer in range(LAYERS)])
    times = [1 if layer == 0 and name != "deberta-v3" else 2 for layer in range(LAYERS)]
    assert found[1] == [n * count for n, count in zip(times, found[0], strict=True)]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_less_is_saved_for_the_backward_pass(name, kind, store):
    """Of the activations of layers 1 to 3; the loss and the head are the same."""
    saved = {}
    for flag in (False, True):
        count = Counter()

        def pack(tensor, count=count):
            count["values"] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            job = job_for(name, kind, store, checkpointing=flag)
            client.train(job, store.get, random_examples(kind, 4), CPU)
        saved[flag] = count["values"]
    assert saved[True] < 0.5 * saved[False]


# What a frozen layer leaves behind


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_no_graph_exists_before_the_block(name, kind, store, monkeypatch):
    """But with DeBERTa, whose trained norm feeds every layer (PAPER, Table 5)."""
    graph = {}

    def look(layer, module):
        def after(module, arguments, output):
            hidden = output[0] if isinstance(output, tuple) else output
            graph[layer] = hidden.requires_grad

        module.register_forward_hook(after)

    watch(monkeypatch, look)
    client.train(job_for(name, kind, store), store.get, random_examples(kind, 4), CPU)
    assert graph == {0: name == "deberta-v3", 1: True, 2: True, 3: True}


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("flag", [False, True])
def test_only_what_trains_has_gradients_and_optimizer_state(name, kind, flag, store, monkeypatch):
    kept = {}

    def look(model, optimizer):
        kept["gradients"] = {n for n, p in model.named_parameters() if p.grad is not None}
        kept["state"] = len(optimizer.state)
        return 0

    monkeypatch.setattr("leff.client.steps.state_bytes", look)
    job = job_for(name, kind, store, checkpointing=flag)
    client.train(job, store.get, random_examples(kind, 4), CPU)
    names = trainable_names(tiny(name, kind), BLOCK)
    assert kept == {"gradients": set(names), "state": len(names)}


def test_adapters_in_every_layer_run_again_too(store):
    """A job with `tuned` trains something in every layer."""
    model = tiny("gpt2", "generation")
    job = job_of(model, "generation", store, range(LAYERS))
    segments = tuple(replace(segment, trains=False) for segment in job.segments)
    name = "transformer.h.2.attn.c_attn"
    tuned = Tuned({f"{name}.lora_A": (2, 32), f"{name}.lora_B": (96, 2)}, seed=3)
    job = replace(job, segments=segments, tuned=tuned)
    payloads = {
        client.train(
            replace(job, training=with_settings(checkpointing=flag)),
            store.get,
            random_examples("generation", 6),
            CPU,
        ).payload
        for flag in (False, True)
    }
    assert len(payloads) == 1 and payloads != {b""}
