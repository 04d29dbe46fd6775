"""Predicted bytes of a step, against real ones and against laws."""

import dataclasses

import pytest
import torch
from small_rounds import CPU
from tiny_models import LAYERS, tiny
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config

from leff.capacity.candidates import settings
from leff.capacity.peak import predict
from leff.capacity.rehearsal import examples_of, rehearse, training_of
from leff.client import train as client
from leff.methods.jobs import JobWriter, layout_job
from leff.methods.registry import methods, spec_of
from leff.methods.setup import ClientSetup, block_layout
from leff.methods.stand_ins import EXACT, make_context
from leff.models import empty_model
from leff.wire.messages import Step

KIND = "generation"
ASKED = ClientSetup(rank=2, step=Step(batch_size=4), length=8)
STEP = {each.name for each in dataclasses.fields(Step)}
FAMILIES = [
    ("gpt2", KIND),
    ("llama", KIND),
    ("bert", "classification"),
    ("deberta-v3", "regression"),
]


def asked(**changes):
    """The setup above with these changes, a step's among them."""
    step = dataclasses.replace(ASKED.step, **{n: v for n, v in changes.items() if n in STEP})
    others = {n: v for n, v in changes.items() if n not in STEP}
    return dataclasses.replace(ASKED, step=step, **others)


def layout_of(config, kind, method, setup, place=0):
    """Return the layout of a method in the first stage, at one place."""
    return spec_of(method).stages(empty_model(config, kind), setup)[0][place]


def rehearsed(config, kind, method, setup, place=0):
    return rehearse(config, kind, layout_of(config, kind, method, setup, place), setup)


def peak(name="gpt2", kind=KIND, method="leff", **changes):
    return rehearsed(tiny(name, kind).config, kind, method, asked(**changes)).peak


def job_of(model, kind, layout, setup, store):
    writer = JobWriter(store, kind, 0, layout.shell_bits)
    return layout_job(writer, model, layout, training_of(setup.step))


class Watch(TorchDispatchMode):
    """The same count on real tensors, from outside: storages alive after every operation."""

    def __init__(self):
        super().__init__()
        self.live, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor) and each.device.type == "cpu":
                storage = each.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.live.values()))
        return out


@pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=str)
@pytest.mark.parametrize("method", ["leff", "fedavg", "fedlora"])
def test_state_is_what_a_client_measures(name, kind, method, store):
    model = tiny(name, kind)
    setup = asked(context=make_context("quantise", bits=8))
    layout = layout_of(model.config, kind, method, setup, 1 if method == "leff" else 0)
    assert layout.block == ([1] if method == "leff" else list(range(LAYERS)))
    job = job_of(model, kind, layout, setup, store)
    update = client.train(job, store.get, examples_of(setup, kind, steps=2), CPU)
    found = rehearse(model.config, kind, layout, setup)
    assert update.failure is None
    assert found.weights + found.gradients + found.optimizer == update.state_bytes


@pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=str)
@pytest.mark.parametrize(
    "changes", [{"proximal": 0.1}, {"checkpointing": True, "accumulation": 4}], ids=str
)
def test_the_peak_is_that_of_the_same_step_with_values(name, kind, changes, store):
    model = tiny(name, kind)
    setup = asked(length=32, **changes)
    layout = block_layout(EXACT, range(1, 2), LAYERS)
    job = job_of(model, kind, layout, setup, store)
    examples = examples_of(setup, kind, steps=2)
    with Watch() as watch:
        assert client.train(job, store.get, examples, CPU).failure is None
    found = rehearse(model.config, kind, layout, setup)
    assert found.peak == pytest.approx(watch.peak, rel=0.05)


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=str)
def test_every_method_has_a_prediction(method, name, kind):
    config = tiny(name, kind).config
    if (method, name) == ("fedbitfit", "llama"):
        pytest.skip("has no biases")
    found = predict(config, kind, spec_of(method), ASKED)
    assert found.peak > found.weights + found.gradients > found.gradients > 0


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_a_base_of_fewer_bits_holds_less(bits):
    config = tiny("gpt2", KIND).config
    found = rehearsed(config, KIND, "fedlora", asked(base_bits=bits))
    plain = rehearsed(config, KIND, "fedlora", ASKED)
    assert found.weights <= plain.weights and (bits == 32) == (found.weights == plain.weights)


@pytest.mark.parametrize("setting", settings(LAYERS), ids=str)
def test_every_context_has_a_prediction(setting):
    setup = asked(context=setting.context)
    assert predict(tiny("gpt2", KIND).config, KIND, spec_of("leff"), setup).peak > 0


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_more_to_do_is_never_less_to_hold(optimizer, precision):
    same = {"optimizer": optimizer, "precision": precision, "length": 32}
    for key, values in (
        ("batch_size", (4, 8, 16)),
        ("length", (16, 32, 64)),
        ("layers", (1, 2, LAYERS)),
        ("labelled", (0.25, 0.5, 1.0)),
    ):
        found = [peak(**{**same, key: value}) for value in values]
        assert found == sorted(found), key


def test_a_leaner_step_holds_less():
    plain = peak(batch_size=16, length=64)
    assert peak(batch_size=16, length=64, checkpointing=True) < plain
    assert peak(batch_size=16, length=64, accumulation=4) < plain


def test_parts_beyond_two_change_nothing_but_their_size():
    assert peak(batch_size=8, accumulation=4) == peak(batch_size=4, accumulation=2)


def test_activations_by_hand():
    """A bare layer more keeps the same again, whatever the number of layers."""
    kept = []
    for layers in (1, 2, 3):
        config = tiny("gpt2", KIND).config
        config.n_layer = layers
        kept.append(rehearsed(config, KIND, "fedavg", ASKED).activations)
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


def test_without_a_block_after_it_fewer_layers_have_a_graph():
    first, last = (
        rehearsed(tiny("gpt2", KIND).config, KIND, "leff", ClientSetup(context=EXACT), place)
        for place in (0, LAYERS - 1)
    )
    assert last.activations < first.activations and last.peak < first.peak


def test_an_8_bit_optimizer_by_hand():
    """A byte a value and moment, a scale for 256; small tensors in fp32; two shared tables."""
    config = GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=40, n_positions=16)
    found = rehearsed(config, KIND, "fedavg", asked(optimizer="adamw8bit"))
    large = [3 * 64 * 64, 64 * 64, 4 * 64 * 64, 4 * 64 * 64]
    small = [3 * 64, 64, 4 * 64, 64, 4 * 64, 2 * 64]  # biases, two norms inside, and the last
    moments = sum(2 * n + 2 * 4 * (n // 256) for n in large) + 8 * sum(small)
    assert found.optimizer == moments + 2 * 256 * 4
