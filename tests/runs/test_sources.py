"""What a configuration names: the start model and its end token."""

import logging

import pytest
import torch
from tiny_runs import options
from transformers import AutoModelForCausalLM, AutoTokenizer

import leff
from leff.errors import ConfigError
from leff.runs.config import load_config
from leff.runs.sources import load_start, model_source, task_of


def start(model, **changes):
    config = load_config(None, options(model, **changes))
    return load_start(config, task_of(config))


@pytest.mark.usefixtures("quick_runs")
def test_an_end_token_of_the_configuration_ends_texts_everywhere(tiny_gpt2, tmp_path):
    wanted = {"training.rounds": 1, "model.end_token": "<|pad|>"}
    run = leff.run(out=tmp_path / "run", **{**options(tiny_gpt2), **wanted})
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    assert tokenizer.eos_token == "<|pad|>"
    model = AutoModelForCausalLM.from_pretrained(run.model)
    assert model.generation_config.eos_token_id == tokenizer.pad_token_id


def test_an_unknown_end_token_is_refused_with_those_that_there_are(tiny_gpt2):
    with pytest.raises(ConfigError, match=r"'</s>' is no token .*<\|endoftext\|>"):
        start(tiny_gpt2, model__end_token="</s>")


def test_an_untrained_end_token_is_said(tiny_gpt2, tmp_path, caplog):
    start(tiny_gpt2)
    assert "shares its" not in caplog.text
    model, tokenizer = start(tiny_gpt2)
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        weights[[5, 6]] = weights[tokenizer.eos_token_id].clone()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        start(tmp_path)
    assert "shares its embedding with 2 others" in caplog.text
    assert "model.end_token" in caplog.text


def test_an_untrained_end_token_gives_way_to_the_beginning_one(tiny_gpt2, tmp_path, caplog):
    model, tokenizer = start(tiny_gpt2)
    tokenizer.bos_token = "<|pad|>"
    with torch.no_grad():
        weights = model.get_input_embeddings().weight
        weights[[5, 6]] = weights[tokenizer.eos_token_id].clone()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        _, found = start(tmp_path)
    assert found.eos_token == "<|pad|>"
    assert "ending texts with '<|pad|>' instead" in caplog.text


def test_a_model_is_found_by_name_in_the_models_folder(tiny_gpt2, monkeypatch):
    monkeypatch.setenv("LEFF_MODELS", str(tiny_gpt2.parent))
    assert model_source(f"someone/{tiny_gpt2.name}") == str(tiny_gpt2)
    assert model_source("no-such-model") == "no-such-model"
    assert leff.generate(tiny_gpt2.name, ["x"], max_new_tokens=2)


def test_the_kind_of_a_table_can_be_said(tmp_path):
    table = tmp_path / "stars.jsonl"
    table.write_text("".join(f'{{"text": "t{i}", "label": {i % 5}}}\n' for i in range(20)))
    chosen = {"data.task": "table", "data.train": str(table)}
    assert task_of(load_config(None, chosen)).kind == "classification"
    assert task_of(load_config(None, {**chosen, "data.kind": "regression"})).kind == "regression"
