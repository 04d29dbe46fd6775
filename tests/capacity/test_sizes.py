"""Sizes against real tensors, and operations against torch's own counter."""

import pytest
import torch
from small_rounds import CASES, CPU, whole
from tiny_models import LAYERS, tiny
from torch.utils.flop_counter import FlopCounterMode

from leff.capacity.sizes import LayerSize, model_sizes
from leff.client.model import client_model, unfreeze
from leff.models import blocks, eager_attention, empty_model
from leff.models.checkpointing import recompute
from leff.models.quantised import quantised

B, T = 4, 32
COUNTED = [
    *(("gpt2", "generation"), ("gpt2-untied", "generation"), ("gpt2", "classification")),
    *(("llama", "generation"), ("llama-tied", "generation")),
    *(("bert", "classification"), ("bert-decoder", "generation")),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_a_layers_bytes_are_those_of_the_tensors_sent(name, kind, bits):
    model = tiny(name, kind)
    for layer, size in zip(blocks(model), model_sizes(model, kind).layers, strict=True):
        assert size.bytes(bits) == sum(t.nbytes for t in quantised(layer, bits).values())


@pytest.mark.parametrize("bits", [8, 4])
def test_groups_cross_rows_and_the_last_is_cut(bits):
    layer = torch.nn.Sequential(torch.nn.Linear(10, 7), torch.nn.LayerNorm(7))
    size = LayerSize(70 + 7 + 14, ((7, 10),))
    assert size.bytes(bits) == sum(t.nbytes for t in quantised(layer, bits).values())
    assert size.bytes(bits) == 21 * 4 + (70 + 7 * 4 if bits == 8 else 35 + 2 * 4)


@pytest.mark.parametrize(("name", "kind"), COUNTED)
def test_the_same_with_and_without_weights(name, kind):
    model = tiny(name, kind)
    assert model_sizes(model, kind) == model_sizes(empty_model(model.config, kind), kind)


def counted(model, kind, store, block, checkpointing=False):
    """Return the operations that torch counts in a training step of the client's real model."""
    job = whole(model, kind, store, block)
    built = client_model(job, store.get, CPU)
    unfreeze(built, job)
    ids = torch.randint(5, 50, (B, T), generator=torch.Generator().manual_seed(0))
    labels = ids if kind == "generation" else torch.ones(B, dtype=torch.long)
    built.config.use_cache = False  # which layers that are run again would go on filling
    if checkpointing:
        recompute(built)
    with eager_attention(built), FlopCounterMode(display=False) as counter:
        built(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "kind"), COUNTED)
@pytest.mark.parametrize("block", [range(LAYERS), range(1), range(1, 2), range(3, 4)])
def test_operations_of_a_step(name, kind, block, store):
    model = tiny(name, kind)
    found = model_sizes(model, kind).step_flops(range(LAYERS), block, batch_size=B, length=T)
    # BERT has no norm before its attention: its lowest layer needs no gradient of the input
    assert found == pytest.approx(counted(model, kind, store, block), rel=0.06)
    if kind == "generation" and not name.startswith("bert"):
        assert found == counted(model, kind, store, block)


@pytest.mark.parametrize("block", [range(LAYERS), range(1, 2)])
def test_checkpointed_layers_are_run_twice(block, store):
    model, kind = tiny("llama", "generation"), "generation"
    plain, found = (
        model_sizes(model, kind).step_flops(
            range(LAYERS), block, batch_size=B, length=T, checkpointing=flag
        )
        for flag in (False, True)
    )
    assert plain < found == pytest.approx(counted(model, kind, store, block, True), rel=0.06)


def test_deberta_takes_more_than_the_formula_says(store):
    """A known gap, see `step_flops`: a tenth for the whole model, most for the last layer."""
    model, kind = tiny("deberta-v3", "classification"), "classification"
    sizes = model_sizes(model, kind)
    ratios = []
    for block in (range(LAYERS), range(3, 4)):
        found = sizes.step_flops(range(LAYERS), block, batch_size=B, length=T)
        ratios.append(found / counted(model, kind, store, block))
    assert ratios == pytest.approx([0.90, 0.57], abs=0.01)
