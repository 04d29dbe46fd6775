"""Plans: Table 5 to the digit, and bytes that add up."""

import json

import pytest
from transformers import BertConfig, GPT2Config, LlamaConfig

from leff.capacity.plan import client_plan
from leff.errors import ConfigError, ModelError
from leff.methods.registry import methods, spec_of
from leff.methods.setup import ClientSetup
from leff.methods.stand_ins import EXACT, Context, Recipe, make_context
from leff.models import load_config
from leff.runs.config import load_config as run_config
from leff.runs.plans import planned
from leff.wire.messages import Step

TABLE_5 = {  # model: FedAvg, FedLoRA, FedBitFit, LEFF with one layer
    "deberta-v3-base": (85_648_130, 1_340_930, 102_914, 7_681_538),
    "deberta-v3-large": (303_363_074, 3_557_378, 272_386, 13_649_922),
    "gpt2": (85_056_000, 811_008, 102_144, 7_089_408),
    "gpt2-large": (708_390_400, 4_055_040, 508_160, 19_680_000),
    "llama-3.1-8b": (None, 20_971_520, None, 743_452_672),
}
CELLS = [
    (model, method, count)
    for model, counts in TABLE_5.items()
    for method, count in zip(("fedavg", "fedlora", "fedbitfit", "leff"), counts, strict=True)
    if count is not None
]
CELLS += [  # adapters of the same rank, or as many sparse values
    (model, method, counts[1])
    for model, counts in TABLE_5.items()
    for method in ("slora", "flora", "flexlora")
]
TINY = GPT2Config(n_embd=16, n_layer=6, n_head=2, vocab_size=40, n_positions=8)
DENSE = 6 * 4 * 16 * (48 + 16 + 64)  # bytes of the weights that get adapters in TINY
BATCH = {"step": Step(batch_size=2), "length": 3}


def plan(config, kind, method, layers=1, **changes):
    return client_plan(config, kind, spec_of(method), ClientSetup(layers, **changes))


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory):
    """The small model as a run names it."""
    folder = tmp_path_factory.mktemp("tiny")
    GPT2Config.from_dict({**TINY.to_dict(), "architectures": ["GPT2LMHeadModel"]}).save_pretrained(
        folder
    )
    return str(folder)


@pytest.mark.parametrize(("model", "method", "count"), CELLS)
def test_table_5(model, method, count):
    assert plan(*load_config(model), method).footprint.trainable_parameters == count


@pytest.mark.parametrize("clients", [1, 2, 3, 9])
def test_flora_sends_the_adapters_of_all_clients_or_the_weights_if_these_are_less(clients):
    one = 6 * 4 * 4 * ((16 + 48) + (16 + 16) + (16 + 64))  # rank 4
    found = plan(TINY, "generation", "flora", rank=4, clients=clients).footprint
    assert found.upload_bytes == one
    assert found.download_bytes == min(clients * one, DENSE)


def test_llama_has_no_biases():
    with pytest.raises(ConfigError, match="llama has none; use fedlora or leff"):
        plan(*load_config("llama-3.1-8b"), "fedbitfit")


CONTEXTS = {
    "none": {"name": "quantise", "bits": 32},
    "distil": {"name": "distil", "rate": 0.5, "bits": 32},
    "quantise": {"name": "quantise", "bits": 8},
}


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("embedding_bits", [32, 16])
def test_bytes_add_up(method, context, embedding_bits, tiny_path):
    options = CONTEXTS[context]
    p = plan(
        TINY,
        "generation",
        method,
        2,
        context=make_context(**options),
        embedding_bits=embedding_bits,
    )
    f, w = p.footprint, p.footprint.weights
    assert p.gradients == 4 * f.trainable_parameters == f.upload_bytes
    assert p.optimizer == 8 * f.trainable_parameters
    bits = embedding_bits if method == "leff" else 32
    assert w.embeddings == (40 * bits // 32 + 8) * 16 * 4
    assert w.total == w.embeddings + w.block + w.tail + w.stand_in + w.adapters
    assert f.state_bytes == w.total + p.gradients + p.optimizer
    if method in ("leff", "fedavg"):
        assert f.setup_bytes + f.download_bytes == w.total  # after the first round it is all there
    else:  # what trains comes beside the model as it was
        assert f.setup_bytes == w.total - w.adapters
        # no tail trains here but bitfit's biases
        sent = min(8 * f.upload_bytes, DENSE) if method == "flora" else f.upload_bytes
        assert f.download_bytes == sent
    run = {f"context.{name}": value for name, value in options.items()}
    config = run_config(None, {**run, "context.embedding_bits": embedding_bits})
    values = json.loads(json.dumps(planned(tiny_path, method, config, layers=2)))
    for name in ("trainable_parameters", "setup_bytes", "download_bytes", "upload_bytes"):
        assert values[name] == getattr(f, name)
    assert (values["gradients"], values["optimizer"]) == (p.gradients, p.optimizer)
    assert values["weights"]["total"] == w.total
    assert values["total_bytes"] == f.state_bytes


LAYER = (12 * 16 * 16 + 13 * 16) * 4  # a GPT-2 layer of width 16, in fp32
EIGHT = 12 * 256 + (9 + 13) * 16 * 4  # 12 D² weights of a byte, 9 D rows with a scale, the rest
FOUR = 12 * 256 // 2 + 12 * 256 // 64 * 4 + 13 * 16 * 4  # half a byte, a scale for 64
OUTSIDE = (40 * 16 + 8 * 16) * 4  # its embeddings
TAIL = 2 * 16 * 4


@pytest.mark.parametrize(
    ("context", "kept", "stand_in"),
    [
        (make_context("distil", rate=0.5), 2, 2 * LAYER),
        (make_context("drop", rate=0.25), 1, LAYER),
        (make_context("drop", rate=0.26), 2, 2 * LAYER),
        (make_context("distil", rate=1.0), 4, 4 * LAYER),
        (make_context("distil", rate=0.5, bits=8), 2, 2 * EIGHT),
        (make_context("quantise", bits=8), 4, 4 * EIGHT),
        (make_context("quantise", bits=4), 4, 4 * FOUR),
        (EXACT, 4, 4 * LAYER),
        # the block last: all four layers before it, in 8 bits
        (make_context("quantise", bits=8, rate=0.5, suffix="distil"), 4, 4 * EIGHT),
        # the block first: all four after it as they are
        (Context(Recipe(bits=4), Recipe()), 4, 4 * LAYER),
    ],
)
def test_stand_ins_are_those_of_the_place_where_most_is_held(context, kept, stand_in):
    p = plan(TINY, "generation", "leff", 2, context=context)
    f, w = p.footprint, p.footprint.weights
    assert (f.stand_in_layers, w.stand_in) == (kept, stand_in)
    assert (w.embeddings, w.block, w.tail) == (OUTSIDE, 2 * LAYER, TAIL)
    assert p.model_bytes == OUTSIDE + 6 * LAYER + TAIL
    assert f.download_bytes == 2 * LAYER + TAIL + stand_in


def test_all_layers_are_fedavg(tiny_path):
    options = {"context.name": "distil", "context.rate": 0.5, "context.embedding_bits": 32}
    config = run_config(None, options)
    all_layers = planned(tiny_path, "leff", config, layers=6)
    fedavg = planned(tiny_path, "fedavg", config)
    assert {**all_layers, "method": None} == {**fedavg, "method": None}


LINEAR = 2 * 12 * 16 * 16 * 6  # of a layer, on 2 × 3 tokens
ATTENTION = 4 * 2 * 3 * 3 * 16
HEAD = 2 * 40 * 16 * 6


def test_operations_by_hand():
    """Forward and inputs of all six layers; weights where they train."""
    forward, inputs = 6 * (LINEAR + ATTENTION) + HEAD, 6 * (LINEAR + 2 * ATTENTION) + HEAD
    through = forward + inputs
    assert plan(TINY, "generation", "fedavg", **BATCH).footprint.step_flops == through + 6 * LINEAR
    assert plan(TINY, "generation", "fedbitfit", **BATCH).footprint.step_flops == through
    adapters = 3 * 6 * (64 + 32 + 80) * 16 // 16  # rank 3 on c_attn and both c_proj
    lora = plan(TINY, "generation", "fedlora", rank=3, **BATCH).footprint
    assert lora.trainable_parameters == adapters
    assert lora.step_flops == through + 6 * 6 * adapters


def test_operations_are_the_mean_over_the_places():
    """A block at layer k has 6 - k layers to go back through; two that train, at 0 to 4."""
    p = plan(TINY, "generation", "leff", 2, **BATCH)
    back = (6 + 5 + 4 + 3 + 2) / 5 * (LINEAR + 2 * ATTENTION)
    assert p.footprint.step_flops == 6 * (LINEAR + ATTENTION) + 2 * HEAD + back + 2 * LINEAR


def test_a_short_prefix_is_gone_back_through_less():
    """Two of four layers are kept: 0, 1, 1, 1 and 2 of them before the block."""
    context = make_context(**CONTEXTS["distil"])
    p = plan(TINY, "generation", "leff", 2, context=context, **BATCH)
    back = (4 + 3 + 3 + 3 + 2) / 5 * (LINEAR + 2 * ATTENTION)
    assert p.footprint.step_flops == 4 * (LINEAR + ATTENTION) + 2 * HEAD + back + 2 * LINEAR


def test_lora_by_hand():
    config = BertConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=2, vocab_size=9)
    config.num_attention_heads = 2
    f = plan(config, "classification", "fedlora", rank=3).footprint
    layer = 3 * (4 * (8 + 8) + 2 * (8 + 12))
    assert f.trainable_parameters == 2 * layer + 3 * (8 + 8) + 2 * (8 + 1)
    assert f.weights.adapters == 4 * (2 * layer + 3 * 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fedag"}, "did you mean 'fedavg'"),
        ({"layers": 0}, "layers must be 1 to 6 for this gpt2, got 0"),
        ({"layers": 7}, "got 7"),
        ({"embedding_bits": 8}, "embedding bits must be 32 or 16, got 8"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"rank": 0, "method": "fedlora"}, "rank must be at least 1"),
        ({"rank": 17, "method": "fedlora"}, "rank must be 1 to 16"),
    ],
)
def test_bad_choices_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        plan(TINY, "generation", **{"method": "leff", **change})


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="cannot generate"):
        plan(BertConfig(), "generation", "leff")


def test_a_tied_head_does_not_train():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
    tied, untied = (
        plan(LlamaConfig(**sizes, tie_word_embeddings=tie), "generation", "leff").footprint
        for tie in (True, False)
    )
    assert untied.trainable_parameters - tied.trainable_parameters == 40 * 16
