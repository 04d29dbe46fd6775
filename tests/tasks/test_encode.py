"""Token ids, label masks and batches, on three kinds of tiny tokenizer."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import END, bert, byte_level, sentence_piece

from leff.errors import ConfigError, ModelError
from leff.models.losses import IGNORED
from leff.tasks.columns import Table
from leff.tasks.encode import collate, encode, ensure_padding, prompt_ids
from leff.tasks.text_form import USUAL

TOKENIZERS = (byte_level(), sentence_piece())
CAUSAL = pytest.mark.parametrize("make", [byte_level, sentence_piece])


def pairs(*rows: tuple[str, str]) -> Table:
    return Table({"input": [r[0] for r in rows], "target": [r[1] for r in rows]})


@CAUSAL
def test_the_mask_ends_where_the_target_begins(make):
    tokenizer = make()
    (example,) = encode(pairs(("name[A]", "It is A.")), tokenizer, "generation", 64)
    ids = example.input_ids.tolist()
    assert ids[: example.prompt_tokens] == prompt_ids(["name[A]"], tokenizer, 64, USUAL)[0]
    assert tokenizer.decode(ids[example.prompt_tokens :]).strip() == f"It is A.{END}"
    words = tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert words == "name[A] = It is A."
    labels = collate([example], 0)["labels"][0].tolist()
    assert labels == [IGNORED] * example.prompt_tokens + ids[example.prompt_tokens :]


@CAUSAL
def test_one_start_token_and_one_end_token(make):
    tokenizer = make()
    (example,) = encode(pairs(("a b", "c d")), tokenizer, "generation", 64)
    ids = example.input_ids.tolist()
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == 1
    if tokenizer.bos_token_id != tokenizer.eos_token_id:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1


@settings(max_examples=40, deadline=None)
@given(
    source=st.text("abc ", max_size=30),
    target=st.text("abc ", max_size=30),
    length=st.integers(4, 40),
)
def test_cut_examples_keep_the_separator_and_a_label(source, target, length):
    for tokenizer in TOKENIZERS:
        (example,) = encode(pairs((source, target)), tokenizer, "generation", length)
        ids = example.input_ids.tolist()
        assert len(ids) <= length
        assert 0 < example.prompt_tokens < len(ids)
        assert tokenizer.decode(ids[: example.prompt_tokens]).endswith("=")
        (whole,) = encode(pairs((source, target)), tokenizer, "generation", 500)
        answer = whole.input_ids.tolist()[whole.prompt_tokens :]
        kept = ids[example.prompt_tokens :]
        assert kept == answer[: len(kept)]
        if len(answer) <= length // 2:
            assert kept == answer


def test_cut_examples_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        encode(pairs(("a", "b"), ("a" * 50, "b")), byte_level(), "generation", 16)
    assert "1 of 2 examples cut to 16 tokens" in caplog.text


@CAUSAL
def test_prompts_cut_from_the_left(make):
    tokenizer = make()
    ((*_, last),) = prompt_ids(["a" * 50], tokenizer, 8, USUAL)
    assert last == prompt_ids(["a"], tokenizer, 8, USUAL)[0][-1]
    assert len(prompt_ids(["a" * 50], tokenizer, 8, USUAL)[0]) == 8


def test_a_row_with_references_takes_the_first():
    data = Table({"input": ["a"], "references": [["b", "c"]]})
    (example,) = encode(data, byte_level(), "generation", 16)
    (same,) = encode(pairs(("a", "b")), byte_level(), "generation", 16)
    assert example.input_ids.tolist() == same.input_ids.tolist()


@CAUSAL
def test_text_is_joined_by_the_end_token_and_cut_into_chunks(make):
    tokenizer = make()
    texts = ["abc", "de fg", "h" * 11]
    examples = encode(Table({"text": texts}), tokenizer, "text", 5)
    assert all(len(e.input_ids) == 5 for e in examples[:-1])
    assert all(e.prompt_tokens == 0 for e in examples)
    stream = [i for e in examples for i in e.input_ids.tolist()]
    whole = [i for text in texts for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert stream == (whole[:-1] if len(whole) % 5 == 1 else whole)


def test_pairs_have_types_and_labels():
    data = Table({"text": ["a", "a b c"], "text_pair": ["b c", "c"], "label": [1, 0]})
    tokenizer = bert(pad_token="[PAD]")
    batch = collate(encode(data, tokenizer, "classification", 16), ensure_padding(tokenizer))
    assert batch["input_ids"].tolist() == [[1, 4, 2, 5, 6, 2, 0], [1, 4, 5, 6, 2, 6, 2]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1] * 6 + [0], [1] * 7]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.long


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("generation", [{"input": "a b", "target": "c d"}, {"input": "c", "target": "e"}]),
        ("generation", [{"input": "a b", "references": ["c d", "e"]}]),
        ("text", [{"text": "a b c"}, {"text": "d e"}]),
        ("classification", [{"text": "a", "text_pair": "b", "label": 1}]),
        ("regression", [{"text": "a b", "label": 0.5}, {"text": "b", "label": 2.0}]),
    ],
)
def test_plain_rows_are_encoded_like_a_table(kind, rows):
    def values(data):
        return [
            (e.input_ids.tolist(), e.prompt_tokens, e.label, e.type_ids is None)
            for e in encode(data, byte_level(), kind, 16)
        ]

    table = Table({name: [row[name] for row in rows] for name in rows[0]})
    assert values(rows) == values(tuple(rows)) == values(table)
    assert encode([], byte_level(), kind, 16) == []


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_cut_texts_are_counted(kind, caplog):
    label = 1 if kind == "classification" else 1.0
    rows = [{"text": text, "label": label} for text in ("a b", "a b c a", "a b c a b")]
    with caplog.at_level(logging.WARNING):
        examples = encode(rows, bert(), kind, 6)
    assert [len(example.input_ids) for example in examples] == [4, 6, 6]
    assert "1 of 3 examples cut to 6 tokens" in caplog.text


def test_scores_are_floats_and_long_pairs_are_cut():
    data = Table({"text": ["a " * 40], "text_pair": ["b"], "label": [2.5]})
    batch = collate(encode(data, bert(), "regression", 8), 0)
    assert batch["input_ids"].shape == (1, 8)
    assert batch["labels"].dtype == torch.float32


def test_padding_on_either_side():
    examples = encode(pairs(("a", "b"), ("aaa", "bbb")), byte_level(), "generation", 64)
    right, left = (collate(examples, 7, side) for side in ("right", "left"))
    short = len(examples[0].input_ids)
    for batch, part in ((right, slice(None, short)), (left, slice(-short, None))):
        assert batch["input_ids"][0, part].tolist() == examples[0].input_ids.tolist()
        assert batch["attention_mask"].sum(1).tolist() == [len(e.input_ids) for e in examples]
        padding = batch["attention_mask"] == 0
        assert (batch["input_ids"][padding] == 7).all()
        assert (batch["labels"][padding] == IGNORED).all()
        assert (batch["labels"] != IGNORED).sum(1).tolist() == [3, 5]
        assert "token_type_ids" not in batch


def test_padding_falls_back_to_the_end_token(caplog):
    tokenizer = byte_level()
    with caplog.at_level(logging.INFO, logger="leff.tasks.load"):
        assert ensure_padding(tokenizer) == tokenizer.eos_token_id
        assert ensure_padding(tokenizer) == tokenizer.eos_token_id
    assert caplog.text.count("no padding token") == 1


def test_tokenizers_that_cannot_be_used():
    with pytest.raises(ModelError, match="neither a padding nor an end token"):
        ensure_padding(bert())
    with pytest.raises(ModelError, match="no end token"):
        encode(pairs(("a", "b")), bert(), "generation", 16)
    with pytest.raises(ConfigError, match="at least 4 tokens, got 3"):
        encode(pairs(("a", "b")), byte_level(), "generation", 3)
    with pytest.raises(ConfigError, match="at least 4 tokens, got 1"):
        prompt_ids(["a"], byte_level(), 1)
