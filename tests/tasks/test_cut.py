"""The cut is the library's own, token by token, and takes a time that grows with the length."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert, byte_level, sentence_piece
from tokenizers import processors
from transformers import AutoTokenizer, ByT5Tokenizer

from leff.tasks import cut
from leff.tasks.cut import encode_cut, kept
from leff.tasks.sources.sample import MODEL
from leff.tasks.text_form import TextForm


def roberta():
    """As RoBERTa: <s> a </s></s> b </s>, two special tokens side by side, no sentence types."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 0), ("</s>", 0)
    )
    return tokenizer


def from_the_left(tokenizer):
    tokenizer.truncation_side = "left"
    return tokenizer


TOKENIZERS = {
    "byte level": byte_level(),
    "sentence piece": sentence_piece(),
    "bert": bert(),
    "roberta": roberta(),
    "bert, left": from_the_left(bert()),
    "roberta, left": from_the_left(roberta()),
    "in Python": ByT5Tokenizer(),
    "in Python, left": from_the_left(ByT5Tokenizer()),
    "packaged": AutoTokenizer.from_pretrained(MODEL),
}
KINDS = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
READ = TextForm("{input}", special_tokens=True)  # special tokens in texts too, as the library does
REAL = ("bert-base-uncased", "deberta-v3", "gpt2", "llama2")

texts = st.lists(st.sampled_from(["a", "b ", "c", " a b c ", "é", "</s>"]), max_size=9).map("".join)
rows = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def same(tokenizer, first, second, max_length):
    """Compare with the library's own truncation."""
    mine = list(encode_cut(tokenizer, first, second, max_length, READ))
    both = [first] if second is None else [first, second]
    whole = tokenizer(*both, verbose=False)
    theirs = tokenizer(*both, truncation=True, max_length=max_length, verbose=False)
    types = theirs.get("token_type_ids", [None] * len(first))
    assert [row.ids for row in mine] == theirs["input_ids"]
    assert [row.types for row in mine] == types
    assert [row.cut for row in mine] == [len(ids) > max_length for ids in whole["input_ids"]]


@KINDS
@given(rows, st.integers(4, 24))
@settings(max_examples=25)
@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_tokens_are_those_of_the_librarys_truncation(tokenizer, rows, max_length):
    first, second = map(list, zip(*rows, strict=True))
    same(tokenizer, first, second, max_length)
    same(tokenizer, first, None, max_length)


@pytest.mark.skipif("LEFF_MODELS" not in os.environ, reason="LEFF_MODELS names no folder of models")
@pytest.mark.parametrize("name", REAL)
def test_tokens_of_real_tokenizers(name):
    folder = Path(os.environ["LEFF_MODELS"]) / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Which café is near the river? Antidisestablishmentarianism, 12.5 % of it: 日本語 …"
    words = text.split()
    own = [" ".join(words[:size]) for size in range(1, len(words) + 1)]
    for max_length, side in itertools.product((4, 9, 16, 17), ("left", "right")):
        tokenizer.truncation_side = side
        for shift in range(0, len(own), 3):
            same(tokenizer, own, own[shift:] + own[:shift], max_length)
        same(tokenizer, own, None, max_length)


def test_the_rule_by_hand():
    assert kept(3, 4, 7) == (3, 4)
    assert kept(3, 9, 8) == (3, 5) and kept(9, 3, 8) == (5, 3)  # the longer one alone
    assert kept(5, 5, 7) == kept(5, 9, 7) == (3, 4) and kept(9, 5, 7) == (4, 3)
    assert kept(2, 2, 0) == (0, 0) and kept(0, 5, 3) == (0, 3) and kept(5, 0, 3) == (3, 0)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 50))
def test_what_is_kept_fits_and_fills_the_room(first, second, room):
    left, right = kept(first, second, room)
    assert 0 <= left <= first and 0 <= right <= second
    assert left + right == min(first + second, room)
    assert kept(second, first, room) == (right, left) or first == second


def test_long_pairs_do_not_use_the_librarys_truncation(monkeypatch):
    tokenizer = bert()
    call = type(tokenizer).__call__

    def counted(self, *columns, **options):
        assert not options.get("truncation")  # quadratic: minutes for pairs of 10,000 words
        return call(self, *columns, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counted)
    (row,) = encode_cut(tokenizer, ["a " * 10_000], ["b " * 10_000], 16)
    assert row.ids == tokenizer("a " * 6, "b " * 7)["input_ids"]


def test_rows_are_encoded_some_at_a_time(monkeypatch):
    monkeypatch.setattr(cut, "_ROWS", 2)
    texts = ["a", "a b", "a b c", "b", "c c"]
    same(bert(), texts, texts[::-1], 5)
    assert list(encode_cut(bert(), [], [], 8)) == []
