"""Prompts around inputs, special tokens that people write, and chat templates that carry a form."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import bert, byte_level, sentence_piece
from transformers import AutoTokenizer

from leff.errors import ConfigError, ModelError
from leff.tasks.encode import encode, prompt_ids
from leff.tasks.sources.sample import MODEL
from leff.tasks.text_form import (
    AS_IT_IS,
    USUAL,
    TextForm,
    chat_template,
    form_of,
    special_texts,
    start_ids,
    token_ids,
)

MODELS = os.environ.get("LEFF_MODELS")
REAL = ("stories260K", "all-MiniLM-L6-v2", *(f"tokenizers/{n}" for n in (
    "gpt2", "deberta-v3", "llama2", "bert-base-uncased")))  # fmt: skip
real = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not MODELS or not (Path(MODELS) / name).exists(),
                reason=f"LEFF_MODELS has no {name}",
            ),
        )
        for name in REAL
    ],
)
MAKERS = pytest.mark.parametrize("make", [byte_level, sentence_piece, bert])


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(str(MODEL))


def special_ids(tokenizer):
    return set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


@pytest.mark.parametrize("prompt", ["", "{inputs} =", "a {input} b {input}", "{ input }"])
def test_a_prompt_holds_its_input_once(prompt):
    with pytest.raises(ConfigError, match=r"must hold \{input\} once"):
        TextForm(prompt)


@MAKERS
def test_special_tokens_in_texts_are_plain_text(make):
    tokenizer = make(cls_token="[CLS]", sep_token="[SEP]") if make is bert else make()
    name = tokenizer.all_special_tokens[0]
    (ids,) = token_ids(tokenizer, [f"a {name} b"])
    assert special_ids(tokenizer).isdisjoint(ids)
    (read,) = token_ids(tokenizer, [f"a {name} b"], TextForm("{input}", special_tokens=True))
    assert not special_ids(tokenizer).isdisjoint(read)


@real
def test_no_text_makes_a_special_token_of_a_real_tokenizer(name):
    tokenizer = AutoTokenizer.from_pretrained(f"{MODELS}/{name}")
    for mark in tokenizer.all_special_tokens:
        if mark == tokenizer.unk_token:
            continue
        for text in (mark, f"a{mark}b", f"<{mark}>", f"{mark}{mark} 10 {mark}"):
            (ids,) = token_ids(tokenizer, [text])
            assert special_ids(tokenizer).isdisjoint(ids), (mark, text)


@given(st.text(alphabet="ab <>|/s[]=\n", max_size=20))
def test_other_texts_are_tokenised_as_ever(text):
    for make in (byte_level, sentence_piece):
        tokenizer = make()
        if special_texts(tokenizer).search(text):
            continue
        plain = tokenizer([f"{text} ="], add_special_tokens=False)["input_ids"]
        assert token_ids(tokenizer, [text], USUAL) == plain


def test_special_tokens_of_a_prompt_are_tokens(tokenizer):
    end = tokenizer.eos_token
    form = TextForm(f"ask: {{input}}{end}answer:")
    clean, dirty = token_ids(tokenizer, ["a walk", f"a {end} walk"], form)
    assert clean.count(tokenizer.eos_token_id) == dirty.count(tokenizer.eos_token_id) == 1
    assert clean == tokenizer(form.filled("a walk"), add_special_tokens=False)["input_ids"]
    assert dirty[-3:] == clean[-3:]


def test_every_kind_of_task_reads_them_as_text(tokenizer, caplog):
    end = tokenizer.eos_token
    rows = [{"input": f"a{end}", "target": f"b{end}c", "text": f"d {end} e", "label": 0}]
    (written,) = encode(rows, tokenizer, "generation", 64)
    assert written.input_ids.tolist().count(tokenizer.eos_token_id) == 1  # the real end
    (document,) = encode(rows, tokenizer, "text", 64)
    assert document.input_ids.tolist().count(tokenizer.eos_token_id) == 1
    (labelled,) = encode(rows, tokenizer, "classification", 64)
    assert tokenizer.eos_token_id not in labelled.input_ids
    assert "1 rows hold special tokens such as <|endoftext|>, read as plain text" in caplog.text
    control = TextForm(special_tokens=True)
    (written,) = encode(rows, tokenizer, "generation", 64, control)
    assert written.input_ids.tolist().count(tokenizer.eos_token_id) == 3


def test_a_long_input_keeps_what_its_prompt_has_around_it(tokenizer):
    form = TextForm("question: {input} answer:")
    (whole,) = prompt_ids(["walk " * 9], tokenizer, 500, form)
    (cut,) = prompt_ids(["walk " * 90], tokenizer, 30, form)
    assert len(cut) == 30 and tokenizer.decode(cut).startswith("question: ")
    assert cut[-8:] == whole[-8:]


@real
@pytest.mark.parametrize("prompt", ["{input} =", 'Q: {input}\n"é😀{{ a }}\\n =', "{input}"])
def test_a_chat_template_gives_the_tokens_of_training(name, prompt):
    tokenizer = AutoTokenizer.from_pretrained(f"{MODELS}/{name}")
    form = TextForm(prompt)
    wanted = start_ids(tokenizer, form) + token_ids(tokenizer, ["hello there"], form)[0]
    tokenizer.chat_template = chat_template(form, tokenizer)
    chat = [{"role": "user", "content": "hello there"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == wanted
    again = form_of(tokenizer)
    assert start_ids(tokenizer, again) + token_ids(tokenizer, ["hello there"], again)[0] == wanted


def test_without_a_template_there_is_no_form(tokenizer):
    assert form_of(tokenizer) is None


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{{ messages[1]['content'] }}", "{% for %}", "no input at all"],
)
def test_a_template_that_takes_no_question_is_refused(tokenizer, template):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="chat template does not take a question"):
        form_of(tokenizer)


def test_a_blank_parts_the_target_unless_the_prompt_does():
    tokenizer = byte_level()
    rows = [{"input": "a", "target": "walk"}]
    for prompt, text in (("{input} =", "a = walk"), ("{input}\n", "a\nwalk")):
        (example,) = encode(rows, tokenizer, "generation", 64, TextForm(prompt))
        assert tokenizer.decode(example.input_ids[:-1]) == text


def test_as_it_is_adds_nothing():
    assert AS_IT_IS.filled("a: b") == "a: b"
