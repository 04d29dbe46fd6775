"""What is foretold of a client, against what the real client holds after its round."""

import pytest
import torch
from small_rounds import CASES, CPU, job_of, proxy, random_examples
from tiny_models import LAYERS, tiny

from leff.capacity.footprint import footprint, worst_footprint
from leff.capacity.sizes import model_sizes
from leff.client import train as client
from leff.methods.setup import ClientSetup, block_layouts
from leff.methods.stand_ins import Bank, Distillation, make_context
from leff.models import half_words, shell_state, trainable_names
from leff.wire.messages import Segment

ADAM_STEP = 4  # a counter per trained tensor, fp32
CONTEXTS = {
    "none": {"name": "quantise"},
    "quantise-16": {"name": "quantise", "bits": 16},
    "quantise-8": {"name": "quantise", "bits": 8},
    "quantise-4": {"name": "quantise", "bits": 4},
    "drop": {"name": "drop"},
    "distil-8": {"name": "distil", "bits": 8},
}


def foretold(sizes, layers, context):
    """Return the footprint of a block, where most is held."""
    setup = ClientSetup(layers, context)
    each = [footprint(sizes, layout, setup) for layout in block_layouts(setup, LAYERS)]
    return worst_footprint(each)


def measured(model, kind, store, block, context):
    """Return the bytes that a client says it held."""
    spans = context.spans(block, LAYERS)
    made = Bank(Distillation(0, 1e-3, 0.0)).make(model, spans, proxy(kind), {})
    sides = {
        span.start < block.start: Segment(
            span.sources, tuple(store.put(t) for t in made[span].tensors), bits=span.bits
        )
        for span in spans
        if span.layers
    }
    job = job_of(model, kind, store, block, before=sides.get(True), after=sides.get(False))
    return client.train(job, store.get, random_examples(kind, 6), CPU).state_bytes


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("layers", [1, 2])
def test_state_bytes_are_those_of_the_client(name, kind, context, layers, store):
    """Within a hundredth; to the byte with the buffers and AdamW's step counters."""
    model, made = tiny(name, kind), make_context(**CONTEXTS[context])
    found = foretold(model_sizes(model, kind), layers, made).state_bytes
    block = range(1, 1 + layers)
    actual = measured(model, kind, store, block, made)
    assert found == pytest.approx(actual, rel=0.01)
    buffers = sum(t.nbytes for t in model.buffers())
    assert actual - found == buffers + ADAM_STEP * len(trainable_names(model, block))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_sixteen_bits_are_what_half_words_sends(name, kind):
    model = tiny(name, kind)
    shell = shell_state(model)
    sizes = model_sizes(model, kind)
    assert sizes.shell_bytes() == sum(t.nbytes for t in shell.values())
    assert sizes.shell_bytes(16) == sum(t.nbytes for t in half_words(model, shell).values())


def test_the_place_where_most_is_held():
    """Layers differ here: the block takes the largest, the context loses the least."""
    model = tiny("gpt2", "generation")
    wide = torch.nn.Linear(32, 100)
    model.transformer.h[2].extra = wide
    sizes = model_sizes(model, "generation")
    own = foretold(sizes, 1, make_context("quantise", bits=8))
    others = sum(sizes.layers[i].bytes(8) for i in (0, 1, 3))
    assert own.weights.stand_in == others
    assert own.weights.block == sizes.layers[2].bytes(32) == sizes.layers[0].bytes(32) + 3300 * 4
