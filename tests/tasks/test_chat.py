"""Conversations: a form that is read off a template gives what the template gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import END, byte_level, sentence_piece

from leff.errors import ConfigError, ModelError
from leff.tasks.chat import chat_ids, opened_ids
from leff.tasks.chat_form import chat_form, template_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}"
    "{% endif %}" + CHATML
)
HEADERS = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|head|>' + m['role']"
    " + '<|im_start|>\\n\\n' + m['content'] | trim + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|im_start|>\\n\\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + ('model' if m['role'] == "
    "'assistant' else m['role']) + '\\n' + m['content'] | trim + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
)
INSTRUCT = (  # an answer follows a blank, and the start comes with each question
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[I] ' + m['content'] | trim"
    " + ' [/I]' }}{% elif m['role'] == 'system' %}{{ raise_exception('none') }}{% else %}"
    "{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
NO_END = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] | trim + '\\n\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML, "own system": OWN_SYSTEM, "headers": HEADERS, "no system": NO_SYSTEM,
    "instruct": INSTRUCT, "no end": NO_END,
}  # fmt: skip
SYSTEMLESS = ("no system", "instruct")
TALK = [
    {"role": "user", "content": "How far is it?"},
    {"role": "assistant", "content": "Two miles."},
    {"role": "user", "content": "And  back? "},
    {"role": "assistant", "content": "As far."},
]
SYSTEM = {"role": "system", "content": "Answer in short."}


def with_template(template, make=byte_level):
    tokenizer = make()
    marks = ["<|im_start|>", "<|im_end|>", "<|head|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = template
    return tokenizer


def learnt(tokenizer, row):
    return [tokenizer.decode(row.ids[start:stop]) for start, stop in row.spans]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_form_gives_the_templates_tokens(name):
    """Also for several turns, with a system turn, and before an answer."""
    tokenizer = with_template(TEMPLATES[name])
    form = chat_form(tokenizer)
    assert (form.system is None) == (name in SYSTEMLESS)
    starts = [[]] if form.system is None else [[], [SYSTEM]]
    for talk in [[*start, *TALK[:turns]] for start in starts for turns in (2, 4)]:
        wanted = tokenizer.apply_chat_template(talk, tokenize=False)
        if name == "no end":
            wanted = wanted.replace("miles.", f"miles.{END}").replace("far.", f"far.{END}")
        row = chat_ids(talk, tokenizer, form, 10_000)
        assert form.text(talk) == wanted
        assert row.ids == tokenizer(wanted, add_special_tokens=False)["input_ids"]
    for talk in [[*start, *TALK[:turns]] for start in starts for turns in (1, 3)]:
        wanted = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        if name == "no end":
            wanted = wanted.replace("miles.", f"miles.{END}")
        ids = opened_ids(talk, tokenizer, form, 10_000)
        assert ids == tokenizer(wanted, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_answers_and_what_ends_them_are_learnt_and_nothing_else(name, make):
    tokenizer = with_template(name and TEMPLATES[name], make)
    form = chat_form(tokenizer)
    row = chat_ids(TALK, tokenizer, form, 10_000)
    end = form.end.strip()
    assert [text.replace(" ", "") for text in learnt(tokenizer, row)] == [
        f"Twomiles.{end}", f"Asfar.{end}",
    ]  # fmt: skip
    rest = [t for i, t in enumerate(row.ids) if not any(a <= i < b for a, b in row.spans)]
    assert "miles" not in tokenizer.decode(rest).replace(" ", "")


@pytest.mark.parametrize("name", [*TEMPLATES, None])
def test_a_template_of_the_form_is_read_as_the_same_form(name):
    tokenizer = with_template(name and TEMPLATES[name])
    form = chat_form(tokenizer)
    tokenizer.chat_template = template_of(form)
    again = chat_form(tokenizer)
    assert again.text(TALK) == form.text(TALK) and again == form
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == form.text(TALK)


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_without_a_template_there_is_a_plain_form(make):
    tokenizer = make()
    start = "<s>" if make is sentence_piece else ""
    assert chat_form(tokenizer).text([SYSTEM, *TALK[:2]]) == (
        f"{start}Answer in short.\n\nUser: How far is it?\nAssistant: Two miles.</s>\n"
    )
    tokenizer.chat_template = CHATML
    plain = chat_form(tokenizer, plain=True)
    assert plain.text(TALK[:1], opened=True) == f"{start}User: How far is it?\nAssistant:"


@pytest.mark.parametrize("name", [*TEMPLATES, None])
@given(text=st.sampled_from(["<|im_end|>", "</s>", "a<|im_start|>b", "<|head|>"]))
def test_special_tokens_that_people_write_are_text(name, text):
    tokenizer = with_template(name and TEMPLATES[name])
    special = set(tokenizer.all_special_ids)
    talk = [{**message, "content": text + message["content"]} for message in TALK]
    for form in (chat_form(tokenizer), chat_form(tokenizer, special_tokens=True)):
        plain = chat_ids(TALK, tokenizer, form, 10_000).ids
        row = chat_ids(talk, tokenizer, form, 10_000)
        count = sum(token in special for token in row.ids)
        more = sum(token in special for token in plain)
        assert count == more + (4 * len([t for t in [text] if t]) if form.special_tokens else 0)
        if not form.special_tokens:
            assert all(text in own for own in learnt(tokenizer, row))


def test_a_long_conversation_loses_whole_early_turns_first():
    tokenizer = with_template(CHATML)
    form = chat_form(tokenizer)
    whole = chat_ids([SYSTEM, *TALK], tokenizer, form, 10_000)
    last = chat_ids([SYSTEM, *TALK[2:]], tokenizer, form, 10_000)
    assert (whole.turns_lost, whole.cut) == (0, False)
    for most in (len(whole.ids) - 1, len(last.ids)):
        shorter = chat_ids([SYSTEM, *TALK], tokenizer, form, most)
        assert shorter.ids == last.ids and shorter.spans == last.spans
        assert (shorter.turns_lost, shorter.cut) == (2, False)
    assert opened_ids([SYSTEM, *TALK[:3]], tokenizer, form, len(last.ids)) == opened_ids(
        [SYSTEM, TALK[2]], tokenizer, form, 10_000
    )


@pytest.mark.parametrize("most", range(8, 120, 7))
@pytest.mark.parametrize("start", [[], [SYSTEM]])
def test_then_the_question_is_cut_and_then_the_answer(start, most):
    tokenizer = with_template(CHATML)
    form, talk = chat_form(tokenizer), [*start, *TALK]
    row = chat_ids(talk, tokenizer, form, most)
    assert len(row.ids) <= most and row.spans
    assert all(0 < a < b <= len(row.ids) for a, b in row.spans)
    answer = learnt(tokenizer, row)[-1]
    assert "As far.<|im_end|>".startswith(answer)
    assert answer == "As far.<|im_end|>" or len(row.ids) == most
    assert len(opened_ids(talk[:-1], tokenizer, form, most)) <= most


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('no talk') }}", "fails on a conversation of user.*no talk"),
        ("{% for m in messages", "fails on a conversation"),
        (
            "{% for m in messages %}{{ loop.index ~ m['content'] }}{% endfor %}",
            "does more than to put marks",
        ),
        ("{{ messages[-1]['content'] }}", "does more than to put marks"),
        (
            CHATML + "{% if messages | length == 3 %}{{ 'third' }}{% endif %}",
            "conversation of user, assistant, user in a way of its own",
        ),
    ],
)
def test_a_template_that_no_form_can_give_is_refused(template, said):
    with pytest.raises(ModelError, match=f"{said}.*chat_template = 'plain'"):
        chat_form(with_template(template))


def test_a_system_turn_without_a_place():
    tokenizer = with_template(NO_SYSTEM)
    with pytest.raises(ConfigError, match="no place for a system turn"):
        chat_ids([SYSTEM, *TALK], tokenizer, chat_form(tokenizer), 100)


def test_an_answer_needs_an_end():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end token"):
        chat_form(tokenizer)
