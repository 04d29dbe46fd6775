"""A language model's own head, frozen: in the shell, in 16 bits on the client, never changed."""

import json

import pytest
import torch
from small_rounds import same
from tiny_models import LAYERS, batch, tiny
from tiny_runs import options, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM

import leff
from leff.errors import ConfigError
from leff.models import (
    build_model,
    config_from_json,
    config_to_json,
    freeze_head,
    full_state,
    half_words,
    shell_state,
    tail_state,
    trainable_names,
)
from leff.models.losses import mean_loss

HEAD = "lm_head.weight"


def frozen(name="llama"):
    model = tiny(name, "generation")
    freeze_head(model)
    return model


@pytest.mark.parametrize("name", ["llama", "gpt2-untied"])
def test_the_head_moves_from_the_tail_to_the_shell_and_nothing_else_does(name):
    free, found = tiny(name, "generation"), frozen(name)
    assert HEAD in tail_state(free) and HEAD not in tail_state(found)
    assert set(shell_state(found)) - set(shell_state(free)) == {HEAD}
    for layers in ([], [1], range(LAYERS)):
        assert set(trainable_names(free, layers)) - set(trainable_names(found, layers)) == {HEAD}


def test_the_configuration_that_travels_says_so():
    config = config_from_json(config_to_json(frozen().config))
    short = build_model(config, "generation", range(LAYERS), full_state(frozen()))
    assert HEAD not in trainable_names(short, [0])


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [("llama-tied", "generation", "one that is tied"), ("bert", "classification", "none")],
)
def test_a_model_without_a_head_of_its_own_is_refused(name, kind, reason):
    model = tiny(name, kind)
    message = rf"only a language model's own head.* has {reason}.*model\.train_head"
    with pytest.raises(ConfigError, match=message):
        freeze_head(model)
    assert tail_state(model).keys() == tail_state(tiny(name, kind)).keys()


def test_a_head_in_16_bits_computes_as_its_rounded_self():
    model = frozen()
    state = {**full_state(model), **half_words(model, shell_state(model))}
    half = build_model(model.config, "generation", range(LAYERS), state).eval()
    assert half.get_parameter(HEAD).dtype == torch.float16
    for weight in (model.lm_head.weight, model.get_input_embeddings().weight):
        weight.data = weight.data.half().float()
    labelled = {**batch(), "labels": batch()["input_ids"]}
    results = []
    for each in (half, model):
        each.requires_grad_(False)
        names = trainable_names(each, [1])
        for name in names:
            each.get_parameter(name).requires_grad_(True)
        loss = mean_loss(each, labelled)
        loss.backward()
        assert each.get_parameter(HEAD).grad is None
        gradients = {name: each.get_parameter(name).grad for name in names}
        results.append({"loss": loss.detach(), **gradients})
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert not same(results[0], {**results[0], "loss": results[0]["loss"] + 1e-3})


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    """A tiny GPT-2 with a head of its own, as the packaged tokenizer wants it."""
    folder = save_tiny(tmp_path_factory.mktemp("untied"))
    config = AutoConfig.from_pretrained(folder)
    config.tie_word_embeddings = False
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize("method", ["leff", "fedavg"])
def test_a_run_leaves_the_head_and_says_nothing_of_it_in_the_model_that_it_saves(
    untied, tmp_path, method
):
    start = AutoModelForCausalLM.from_pretrained(untied)
    runs = {}
    for train_head in (False, True):
        changes = {"method.name": method, "model.train_head": train_head, "training.rounds": 1}
        run = leff.run(out=tmp_path / str(train_head), **(options(untied) | changes))
        runs[train_head] = run.records()[1], run.load_model()
        assert torch.equal(runs[train_head][1].lm_head.weight, start.lm_head.weight) != train_head
    less = runs[True][0].clients[0].upload_bytes - runs[False][0].clients[0].upload_bytes
    assert less == pytest.approx(4 * start.lm_head.weight.numel(), abs=200)  # and its name
    assert not torch.equal(
        runs[False][1].transformer.ln_f.weight, start.transformer.ln_f.weight
    )  # the rest of the tail trains
    saved = json.loads((tmp_path / "False" / "model" / "config.json").read_text())
    assert "frozen_head" not in saved
