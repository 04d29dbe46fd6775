"""Proxy texts and batches."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from leff.errors import DataError
from leff.tasks.proxy import proxy_batches, proxy_texts
from leff.tasks.sources.sample import MODEL


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(str(MODEL))


def test_the_sample_has_public_texts_of_its_own():
    texts = proxy_texts("sample", examples=20, seed=3)
    assert len(texts) == 20 and all(pair is None for _, pair in texts)
    assert texts == proxy_texts("sample", examples=20, seed=3)
    assert texts != proxy_texts("sample", examples=20, seed=4)


def test_tables_give_texts_without_labels(write):
    rows = [{"input": f"m{i}", "target": f"t{i}"} for i in range(20)]
    path = write("train.jsonl", rows)
    texts = proxy_texts("table", examples=5, seed=0, train=path)
    assert len(texts) == 5
    for text, pair in texts:
        number = text[1:].split()[0]
        assert (text, pair) == (f"m{number} = t{number}", None)
    pairs = write(
        "p.jsonl", [{"text": f"a{i}", "text_pair": f"b{i}", "label": 1} for i in range(9)]
    )
    drawn = proxy_texts("table", examples=100, seed=0, train=pairs)
    assert len(drawn) == 8  # one is held out
    assert all(pair == "b" + text[1:] for text, pair in drawn)


def test_labels_are_not_looked_at_and_a_list_is_taken(write):
    paths = [
        write(f"{n}.jsonl", [{"text": f"{n}{i}", "label": [n]} for i in range(9)]) for n in "ab"
    ]
    texts = proxy_texts("table", examples=100, seed=0, train=paths)
    assert {text[0] for text, _ in texts} == {"a", "b"}


def test_columns_and_folder_are_passed_on(write):
    write("sub/train.csv", "mr,ref\n" + "\n".join(f"x{i},y{i}" for i in range(5)))
    folder = write("sub/other.txt", "").parent
    found = proxy_texts(
        "table",
        examples=2,
        seed=0,
        folder=folder,
        train="train.csv",
        columns={"input": "mr", "target": "ref"},
    )
    assert found[0][0].startswith("x")
    with pytest.raises(DataError, match="there is no file"):
        proxy_texts("text", examples=2, seed=0, train=folder / "none.txt")


def test_batches(tokenizer):
    texts = [("name: Heron Path", None), ("", None), ("a long walk by the river " * 20, None)]
    batches = proxy_batches(texts, tokenizer, "generation", batch_size=1, max_length=12)
    assert [len(batch["input_ids"]) for batch in batches] == [1, 1]  # the empty text is left out
    assert batches[1]["input_ids"].shape == (1, 12)
    (batch,) = proxy_batches(texts, tokenizer, "text", batch_size=8, max_length=12)
    padding = batch["attention_mask"] == 0
    assert padding.any() and (batch["labels"][padding] == -100).all()
    assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])
    (classifier,) = proxy_batches(texts, tokenizer, "classification", batch_size=8, max_length=12)
    assert "labels" not in classifier
    assert np.array_equal(classifier["input_ids"], batch["input_ids"])
    assert proxy_batches([("", None)], tokenizer, "text", batch_size=2, max_length=8) == []
