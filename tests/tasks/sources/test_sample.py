"""The built-in task says what its inputs mean, and keeps its streams apart."""

import json
import random
import socket
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from leff.tasks.sources import sample
from leff.tasks.sources.sample_grammar import draw_meaning, linearise, realise
from leff.tasks.sources.sample_words import ATTRIBUTES, SURFACES, realises
from leff.tasks.text_form import USUAL

SEPARATOR = f"{USUAL.filled('')} "


@pytest.fixture(scope="module")
def task():
    return sample.load(0)


def parse(text: str) -> dict[str, str]:
    return dict(part.split(": ") for part in text.split(" | "))


def test_a_seed_gives_the_same_task(task):
    again = sample.load(0)
    assert task.train == again.train
    assert task.validation == again.validation
    assert task.test == again.test


def test_another_seed_gives_another_task(task):
    other = sample.load(1)
    assert other.train["input"][:20] != task.train["input"][:20]


def test_thousands_of_distinct_examples(task):
    assert len(set(task.train["input"])) == len(task.train) >= 4000
    assert len(set(task.validation["input"])) == len(task.validation)


def test_no_evaluation_input_is_trained_on_whatever_the_seeds(task):
    other = sample.load(1)
    trained = set(task.train["input"]) | set(other.train["input"])
    for part in (task.validation, task.test, other.validation, other.test):
        assert trained.isdisjoint(part["input"])
    assert set(task.validation["input"]).isdisjoint(task.test["input"])


def test_attribute_columns_are_the_input(task):
    assert task.attributes == ATTRIBUTES
    for row in task.train.select(range(500)):
        stated = {a: row[a] for a in ATTRIBUTES if row[a] != "none"}
        assert parse(row["input"]) == {"name": parse(row["input"])["name"], **stated}


def test_several_references_that_differ(task):
    counts = [len(set(row)) for row in task.validation["references"]]
    assert min(counts) >= 3
    assert sum(counts) / len(counts) > 6


def test_every_text_states_its_input_and_nothing_else(task):
    pairs = list(zip(task.train["input"], task.train["target"], strict=True))[:1000]
    pairs += [(row["input"], text) for row in task.validation for text in row["references"]]
    for source, text in pairs:
        meaning = parse(source)
        for attribute in ("name", *ATTRIBUTES):
            stated = {meaning[attribute]} if attribute in meaning else set()
            assert realises(text, attribute) == stated, (source, text)


def test_the_check_notices_a_wrong_text():
    text = "Heron Path is an easy walk in Mossdale. It passes a waterfall."
    assert realises(text, "grade") == {"easy"}
    assert realises(text, "sight") == {"waterfall"}
    assert realises(text, "season") == set()
    assert realises(text.replace("easy", "strenuous"), "grade") == {"hard"}


def test_no_surface_names_two_values():
    for attribute, values in SURFACES.items():
        for value, surfaces in values.items():
            for surface in surfaces:
                assert realises(surface, attribute) == {value}


def test_one_meaning_has_many_texts():
    rng = random.Random(0)
    meaning = draw_meaning(rng)
    assert len({realise(meaning, rng) for _ in range(50)}) > 10


@pytest.mark.parametrize("stream", [sample.pretraining_text, sample.proxy_text])
def test_public_text_is_deterministic_by_seed(stream):
    first = list(islice(stream(3), 50))
    assert first == list(islice(stream(3), 50))
    assert first != list(islice(stream(4), 50))


def test_pretraining_shows_no_input_beside_a_text():
    for document in islice(sample.pretraining_text(0), 3000):
        assert not ("|" in document and "." in document), document


def test_a_proxy_text_never_follows_its_own_input():
    for document in islice(sample.proxy_text(0), 3000):
        source, _, text = document.partition(SEPARATOR)
        if text.endswith("."):
            meaning = parse(source)
            agrees = [realises(text, a) == {value} for a, value in meaning.items()]
            assert not all(agrees), document


def test_public_meanings_are_never_in_a_task(task):
    inputs = {*task.train["input"], *task.validation["input"], *task.test["input"]}
    for stream in (sample.pretraining_text(0), sample.proxy_text(0)):
        for document in islice(stream, 3000):
            assert document.partition(SEPARATOR)[0] not in inputs


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_packaged_model_loads_offline(offline):
    model = AutoModelForCausalLM.from_pretrained(sample.MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(sample.MODEL)
    assert model.config.architectures == ["GPT2LMHeadModel"]
    assert model.config.n_layer >= 8
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.model_max_length == model.config.n_positions


def test_the_packaged_model_is_small():
    assert sum(file.stat().st_size for file in sample.MODEL.iterdir()) <= 8e6
    assert json.loads((sample.MODEL / "config.json").read_text())["dtype"] == "float16"


def test_every_token_of_the_task_was_pretrained(task):
    tokenizer = AutoTokenizer.from_pretrained(sample.MODEL)
    seen: set[int] = {tokenizer.eos_token_id}
    for document in islice(sample.pretraining_text(0), 3000):
        seen.update(tokenizer.encode(document))
    for row in task.train:
        source = tokenizer.encode(USUAL.filled(row["input"]))
        target = tokenizer.encode(f" {row['target']}")
        assert seen.issuperset(source + target), row["input"]
        assert len(source) + len(target) < 70


def test_text_survives_the_tokenizer(task):
    tokenizer = AutoTokenizer.from_pretrained(sample.MODEL)
    for text in task.train["target"][:200]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_written_meaning_reads_back():
    meaning = draw_meaning(random.Random(5))
    assert parse(linearise(meaning)) == meaning
