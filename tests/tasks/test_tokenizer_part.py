"""A tokenizer crosses the network as bytes: the same tokens there, and nothing foreign is read."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import bert, byte_level, sentence_piece
from transformers import AutoTokenizer

from leff.errors import ModelError
from leff.tasks.encode import encode, ensure_padding
from leff.tasks.sources.sample import MODEL
from leff.tasks.text_form import TextForm
from leff.tasks.tokenizer_part import FILES, MOST_BYTES, packed_tokenizer, read_tokenizer
from leff.wire.tensors import pack, unpack

MADE = {
    "sample": lambda: AutoTokenizer.from_pretrained(str(MODEL)),
    "bert": lambda: bert(pad_token="[PAD]", unk_token="[UNK]", sep_token="[SEP]"),
    "llama": sentence_piece,
    "gpt2": byte_level,
}
BOTH = {}


def both(name):
    """A server's tokenizer, as a run prepares it, and the device's."""
    if name not in BOTH:
        own = MADE[name]()
        if name != "bert":
            ensure_padding(own)
            own.chat_template = "{{ messages }}"
        BOTH[name] = own, read_tokenizer(unpack(pack(packed_tokenizer(own))))
    return BOTH[name]


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40), pair=st.text(max_size=20))
def test_both_sides_make_the_same_tokens(name, text, pair):
    own, theirs = both(name)
    for texts in ((text,), (text, pair), (f"a </s> {text} [SEP] <|endoftext|>",)):
        ids = own(*texts)
        assert dict(theirs(*texts)) == dict(ids)
        assert theirs.decode(ids["input_ids"]) == own.decode(ids["input_ids"])


@pytest.mark.parametrize("name", MADE)
def test_both_sides_make_the_same_examples(name):
    own, theirs = both(name)
    assert theirs.pad_token_id == own.pad_token_id and theirs.eos_token_id == own.eos_token_id
    assert not theirs.chat_template
    kind = "classification" if name == "bert" else "generation"
    row = {"text": "a b [SEP] a", "text_pair": "c", "label": 1}
    rows = [row] if name == "bert" else [{"input": "a </s> b", "target": "c d"}]
    for form in (TextForm(), TextForm("Q: {input} A:", special_tokens=True)):
        examples = [encode(rows, side, kind, 16, form)[0] for side in (own, theirs)]
        assert examples[0].input_ids.tolist() == examples[1].input_ids.tolist()
        assert examples[0].prompt_tokens == examples[1].prompt_tokens


def test_the_same_tokenizer_is_the_same_part():
    own, theirs = both("sample")
    assert pack(packed_tokenizer(own)) == pack(packed_tokenizer(own))
    assert pack(packed_tokenizer(theirs)) == pack(packed_tokenizer(own))
    assert packed_tokenizer(own).keys() <= FILES


def written(values):
    return torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("../evil.json", written({}), "a file '../evil.json'"),
        ("code.py", written({}), "a file 'code.py'"),
        ("config.json", written({}), "a file 'config.json'"),
        ("vocab.txt", torch.zeros(3), "does not hold bytes"),
        ("vocab.txt", torch.zeros((2, 2), dtype=torch.uint8), "does not hold bytes"),
        ("tokenizer_config.json", written([]), "no tokenizer_config.json"),
        ("tokenizer_config.json", torch.ones(4, dtype=torch.uint8), "no tokenizer_config.json"),
        ("tokenizer_config.json", written({"auto_map": {}}), r"code or files \(auto_map\)"),
        ("tokenizer_config.json", written({"vocab_file": "/etc/x"}), r"files \(vocab_file\)"),
        ("tokenizer_config.json", written({"chat_template": "{{"}), r"\(chat_template\)"),
        ("tokenizer.json", written({"a": 1}), "cannot be read here"),
        ("tokenizer.json", torch.empty(0, dtype=torch.uint8).expand(0), "cannot be read here"),
    ],
)
def test_what_is_no_tokenizer_is_refused(name, content, said, monkeypatch):
    files = packed_tokenizer(both("sample")[0])
    if "cannot be read" not in said:
        monkeypatch.setattr("tempfile.TemporaryDirectory", None)  # nothing is written
    with pytest.raises(ModelError, match=said):
        read_tokenizer({**files, name: content})


def test_too_many_bytes_are_refused_before_any_is_read():
    large = torch.zeros(1, dtype=torch.uint8).expand(MOST_BYTES + 1)  # takes a byte
    with pytest.raises(ModelError, match="the most that is read is 134,217,728"):
        read_tokenizer({**packed_tokenizer(both("sample")[0]), "vocab.txt": large})


def test_a_missing_file_is_refused():
    with pytest.raises(ModelError, match=r"no tokenizer_config\.json"):
        read_tokenizer({})
