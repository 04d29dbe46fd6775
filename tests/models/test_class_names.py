"""A start model's classes are matched by name; a head that does not match is made new."""

import logging

import pytest
import torch
from tiny_models import tiny
from tiny_runs import save_tiny
from transformers import AutoTokenizer

from leff.models import load_model
from leff.models.class_names import class_names, head_path
from leff.models.families import find
from leff.tasks.sources.sample import MODEL

NAMES = ("flat", "steep", "wet")
FAMILIES = ("bert", "roberta", "deberta-v3", "gpt2", "llama", "qwen2")


@pytest.fixture
def start(tmp_path):
    """Save a classifier of three named classes; return its folder and its head's weights."""

    def save(name="bert", names=NAMES):
        model = tiny(name, "classification")
        model.config.num_labels = len(names)
        model = type(model)(model.config)
        if names[0]:
            model.config.id2label = dict(enumerate(names))
            model.config.label2id = {each: row for row, each in enumerate(names)}
        tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
        model.resize_token_embeddings(len(tokenizer))
        model.config.pad_token_id = tokenizer.pad_token_id
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return tmp_path, head(model).weight.detach().clone()

    return save


def head(model):
    return find(model, head_path(model))


def warned(caplog):
    return "its head is made new" in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_follow_their_names(start, family, caplog):
    folder, own = start(family)
    model, _ = load_model(folder, "classification", ("Wet", "flat "))
    assert torch.equal(head(model).weight, own[[2, 0]])
    assert model.config.id2label == {0: "Wet", 1: "flat "}
    assert model.config.label2id == {"Wet": 0, "flat ": 1}
    assert model.num_labels == model.config.num_labels == 2 and not warned(caplog)
    ids = torch.tensor([[3, 4, 5]])
    assert model(input_ids=ids).logits.shape == (1, 2)


def test_names_that_differ_in_capitals_alone_match_exactly(start):
    folder, own = start(names=("a", "A"))
    model, _ = load_model(folder, "classification", ("A", "a"))
    assert torch.equal(head(model).weight, own[[1, 0]])


@pytest.mark.parametrize(
    "labels", [("flat", "dry"), ("a", "b", "c"), ("flat", "steep", "wet", "x")]
)
def test_a_head_of_other_classes_is_made_new(start, labels, caplog):
    folder, own = start()
    before = torch.get_rng_state()
    heads = [
        head(load_model(folder, "classification", labels, seed=s)[0]).weight for s in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert heads[0].shape[0] == len(labels) and torch.equal(torch.get_rng_state(), before)
    assert "(flat, steep, wet)" in caplog.text and warned(caplog)
    assert not any(torch.equal(row, old) for row in heads[0] for old in own)


def test_a_head_without_names_keeps_its_rows_only_by_row(start, caplog):
    folder, own = start(names=("", "", ""))
    assert class_names(load_model(folder, "classification")[0].config) == {}
    model, _ = load_model(folder, "classification", NAMES)
    assert torch.equal(head(model).weight, own) and not warned(caplog)
    model, _ = load_model(folder, "classification", NAMES, by_row=False)
    assert not torch.equal(head(model).weight, own) and "(not named)" in caplog.text


def test_without_labels_a_model_keeps_its_own(start):
    folder, own = start()
    model, _ = load_model(folder, "classification")
    assert torch.equal(head(model).weight, own) and class_names(model.config) == dict(
        enumerate(NAMES)
    )


def test_a_model_without_a_head_gets_the_names(tmp_path, caplog):
    save_tiny(tmp_path, "generation")
    with caplog.at_level(logging.INFO):
        model, _ = load_model(tmp_path, "classification", NAMES)
    assert class_names(model.config) == dict(enumerate(NAMES)) and not warned(caplog)
    model, _ = load_model(tmp_path, "regression")
    assert class_names(model.config) == {0: "score"}
