"""What a job takes: equal to the footprints that plans are made of, and to what clients do."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_rounds import TRAINING, random_examples, recipe, with_settings
from tiny_models import LAYERS, tiny

from leff.capacity.footprint import footprint
from leff.capacity.job_cost import job_steps, setup_parts, step_flops
from leff.capacity.sizes import model_sizes
from leff.client.steps import batches
from leff.methods.checks import expected_shapes
from leff.methods.method import RoundContext
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup, block_layouts, job_layout
from leff.methods.stand_ins import make_context
from leff.wire.headers import packed_bytes
from leff.wire.messages import Capacity, Step
from leff.wire.tensors import pack

KIND = "generation"
LENGTH = 12
STEP = Step(batch_size=4)


def planned(name, store, model, layers=1, **options):
    made = recipe(name, model, KIND, store, training__rounds=4, **options)
    context = RoundContext(3, 0, TRAINING)
    return made.plan(model, context, [Capacity(client, layers, 6) for client in range(3)]).jobs


@pytest.mark.parametrize("context", ["quantise", "drop"])
@pytest.mark.parametrize("layers", [1, 3])
def test_leff_is_its_footprint_at_that_place(context, layers, store):
    model = tiny("gpt2", KIND)
    options = {"context__name": context, "context__bits": 8, "context__embedding_bits": 16}
    setting = make_context(context, rate=0.5, bits=8)
    sizes = model_sizes(model, KIND)
    asked = ClientSetup(layers, setting, embedding_bits=16, step=STEP, length=LENGTH)
    layouts = block_layouts(asked, LAYERS)
    for job in planned("leff", store, model, layers, **options):
        written, wanted = job_layout(job, 16), layouts[job.block[0]]
        assert written == wanted
        flops = step_flops(written, sizes, job.training.step, LENGTH)
        assert flops == footprint(sizes, wanted, asked).step_flops


@pytest.mark.parametrize("name", ["fedavg", "fedbitfit", "fedlora", "slora", "flora", "flexlora"])
def test_a_method_is_its_footprint(name, store):
    model = tiny("gpt2", KIND)
    sizes = model_sizes(model, KIND)
    asked = ClientSetup(rank=3, step=STEP, length=LENGTH)
    *first, last = ((layout,) for (layout,) in spec_of(name).stages(model, asked))
    wanted = footprint(sizes, *last, asked)
    for job in planned(name, store, model):
        written = job_layout(job, 32)
        flops = step_flops(written, sizes, job.training.step, LENGTH)
        if name == "slora" and any(n.endswith(".sparse") for n in job.tuned.shapes):
            assert flops > wanted.step_flops  # stage one
            assert (written,) in first
            continue
        assert flops == wanted.step_flops
        assert (written,) == last


@pytest.mark.parametrize("name", ["leff", "fedavg", "fedlora", "slora"])
def test_an_update_has_the_predicted_size(name, store):
    model = tiny("gpt2", KIND)
    for job in planned(name, store, model):
        shapes = expected_shapes(model, job)
        assert packed_bytes(shapes) == len(pack({n: torch.zeros(s) for n, s in shapes.items()}))


@given(st.integers(1, 40), st.floats(0.05, 3.0), st.integers(1, 9))
def test_steps_are_those_that_a_client_takes(count, epochs, size):
    settings = with_settings(epochs=epochs, batch_size=size)
    job = SimpleNamespace(training=settings, seed=1, pad_id=0)
    taken = batches(random_examples(KIND, count), job, torch.device("cpu"))
    assert job_steps(job, count) == sum(1 for _ in taken)


def test_what_is_sent_once(store):
    model = tiny("gpt2", KIND)
    (leff, *_), (lora, *_) = (planned(name, store, model) for name in ("leff", "fedlora"))
    assert setup_parts(leff) == {leff.shell.digest}
    every_round = {part.digest for part in lora.parts} - setup_parts(lora)
    assert every_round == {lora.tuned.part.digest}
    assert len(lora.block) == LAYERS
