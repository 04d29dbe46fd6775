"""The form of conversations: what a model's chat template puts around the texts of each role.

    form = chat_form(tokenizer)                # read off its template, or a plain one
    form.text(messages)                        # what the template makes of them
    tokenizer.chat_template = template_of(form)           # so that it travels with a model

`messages` are mappings of ``role`` (system, user, assistant) and ``content``.  Blanks around a
content are left out.

A template is a program, and a device runs no program of the server's.  So a form says what stands
before and after a text of each role.  It is compared with the template on several conversations,
and a template that no form can give is refused.

A device imports this file: it needs no library of data sets or metrics.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from leff.errors import ConfigError, ModelError
from leff.tasks.text_form import special_texts, start_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]


@dataclass(frozen=True)
class ChatForm:
    """What stands around the texts of a conversation.

    A conversation is `start`, its system turn or else `no_system`, and its other turns.  `opening`
    comes before an answer, which the model writes from there on: `lead`, the answer, and `end`.
    These three are learnt.  `rest` follows.  `system` is None if there may be no system turn.
    `special_tokens` is as in `text_form.TextForm`.
    """

    start: str
    no_system: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    opening: str
    lead: str
    end: str
    rest: str
    special_tokens: bool = False

    def text(self, messages: Sequence[Message], *, opened: bool = False) -> str:
        """Return a conversation as one text; `opened` for an answer that is to be written."""
        return "".join(piece.text for piece in self.pieces(messages, opened=opened))

    def pieces(self, messages: Sequence[Message], *, opened: bool = False) -> "Iterator[Piece]":
        """Yield a conversation's text in pieces.

        Raises ConfigError for a system turn that the form has no place for.
        """
        yield Piece(self.start)
        if not messages or messages[0]["role"] != "system":
            yield Piece(self.no_system)
        for turn, message in enumerate(messages):
            content = message["content"].strip()
            if message["role"] == "assistant":
                yield Piece(self.opening, turn)
                yield Piece(self.lead, turn, learnt=True)
                yield Piece(content, turn, learnt=True, own=True)
                yield Piece(self.end, turn, learnt=True)
                yield Piece(self.rest, turn)
                continue
            around = self.user if message["role"] == "user" else self.system
            if around is None:
                raise ConfigError(
                    "the model's chat template has no place for a system turn; leave such turns "
                    "out, or use data.chat_template = 'plain'"
                )
            yield Piece(around[0], turn)
            yield Piece(content, turn, own=True)
            yield Piece(around[1], turn)
        if opened:
            yield Piece(self.opening, len(messages))


class Piece(NamedTuple):
    """A piece of a conversation's text, of the form or the user's own; `learnt` has labels."""

    text: str
    turn: int = 0
    learnt: bool = False
    own: bool = False


def chat_form(
    tokenizer: "PreTrainedTokenizerBase", *, plain: bool = False, special_tokens: bool = False
) -> ChatForm:
    """Return the form of a tokenizer's chat template; a `plain` one if it has none, or if asked.

    Raises ModelError for a template that fails, and for one that no form can give.
    """
    if plain or not getattr(tokenizer, "chat_template", None):
        bos = cast(str, tokenizer.bos_token) if start_ids(tokenizer) else ""
        form = ChatForm(
            bos, "", ("", "\n\n"), ("User: ", "\n"), "Assistant:", " ", _eos(tokenizer), "\n"
        )
    else:
        form = _with_end(_read(tokenizer), tokenizer)
    return replace(form, special_tokens=special_tokens)


def end_id(form: ChatForm, tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the token that ends an answer."""
    marks = special_texts(tokenizer)
    assert marks is not None  # the end is one of them
    return cast(int, tokenizer.convert_tokens_to_ids(marks.findall(form.end)[-1]))


def is_template_of(form: ChatForm, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether the tokenizer's chat template makes what the form does."""
    if not getattr(tokenizer, "chat_template", None):
        return False
    talk = _talk(PROBES[-1])
    try:
        return cast(Any, tokenizer).apply_chat_template(talk, tokenize=False) == form.text(talk)
    except Exception:  # a template is a program of its own
        return False


def template_of(form: ChatForm) -> str:
    """Return a chat template of the form, for `tokenizer.chat_template`."""

    def said(text: str) -> str:
        return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""

    content = "{{ message['content'] | trim }}"
    system = "{{ raise_exception('there is no system turn') }}"
    if form.system is not None:
        system = said(form.system[0]) + content + said(form.system[1])
    return (
        said(form.start)
        + "{% if not messages or messages[0]['role'] != 'system' %}"
        + said(form.no_system)
        + "{% endif %}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        + said(form.opening + form.lead)
        + content
        + said(form.end + form.rest)
        + "{% elif message['role'] == 'user' %}"
        + said(form.user[0])
        + content
        + said(form.user[1])
        + "{% else %}"
        + system
        + "{% endif %}{% endfor %}{% if add_generation_prompt %}"
        + said(form.opening)
        + "{% endif %}"
    )


def _eos(tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.eos_token is None:
        raise ModelError("the tokenizer has no end token, so an answer would never end")
    return cast(str, tokenizer.eos_token)


def _with_end(form: ChatForm, tokenizer: "PreTrainedTokenizerBase") -> ChatForm:
    """Divide `rest` after the last special token in it, which ends an answer."""
    marks = special_texts(tokenizer)
    found = [] if marks is None else list(marks.finditer(form.rest))
    if found:
        cut = found[-1].end()
        return replace(form, end=form.rest[:cut], rest=form.rest[cut:])
    return replace(form, end=_eos(tokenizer))  # the template marks no end


WORDS = ("Quilloram", "Vestobrin", "Hapzeluno", "Dormakwit", "Juvolence")  # as no template has them
PROBES = (
    ("user",),
    ("user", "assistant"),
    ("user", "assistant", "user"),
    ("user", "assistant", "user", "assistant", "user", "assistant"),
)


def _talk(roles: Sequence[str]) -> list[dict[str, str]]:
    """Return a conversation of one word a turn."""
    return [{"role": role, "content": f"{WORDS[i % 5]}{i}"} for i, role in enumerate(roles)]


def _read(tokenizer: "PreTrainedTokenizerBase") -> ChatForm:
    """Return the form, with all that follows an answer in `rest`."""

    def rendered(roles: Sequence[str], *, opened: bool = False) -> str:
        try:
            return cast(Any, tokenizer).apply_chat_template(
                _talk(roles), tokenize=False, add_generation_prompt=opened
            )
        except Exception as error:  # a template is a program of its own
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"the model's chat template fails on a conversation of {', '.join(roles)} "
                f"({reason}); use data.chat_template = 'plain'"
            ) from error

    usual = ("user", "assistant", "user", "assistant")
    try:
        head, asked, between, again, rest = _around(rendered(usual), _talk(usual))
        one, open_ = rendered(usual[:1]), rendered(usual[:1], opened=True)
        after = _without(one, start=head + _talk(usual)[0]["content"])
        opening = _without(open_, start=one)
        lead = _without(asked, start=after + opening)
        before = _without(between, start=rest)
        head = _without(head, end=before)
        if again != asked:
            raise _OtherError
    except _OtherError:
        raise ModelError(
            "the model's chat template does more than to put marks around each turn, so it cannot "
            "be trained with here; use data.chat_template = 'plain'"
        ) from None
    form = ChatForm("", head, None, (before, after), opening, lead, "", rest)
    try:
        first, second, *others = _around(rendered(("system", *usual)), _talk(("system", *usual)))
        bos = cast("str | None", tokenizer.bos_token) or ""
        start = bos if head.startswith(bos) and first.startswith(bos) else ""
        pair = (_without(first, start=start), _without(second, end=before))
        if others == [asked, between, again, rest]:
            form = replace(form, start=start, no_system=head.removeprefix(start), system=pair)
    except (ModelError, _OtherError):
        pass  # it has no system turn
    systems = [()] if form.system is None else [(), ("system",)]
    for roles in [(*system, *probe) for system in systems for probe in PROBES]:
        for opened in (False, True) if roles[-1] == "user" else (False,):
            if form.text(_talk(roles), opened=opened) != rendered(roles, opened=opened):
                raise ModelError(
                    f"the model's chat template treats a conversation of {', '.join(roles)} in a "
                    "way of its own; use data.chat_template = 'plain'"
                )
    return form


class _OtherError(Exception):
    """A rendered conversation is not made as a form makes it."""


def _around(text: str, talk: Sequence[Message]) -> list[str]:
    """Return what stands before, between and after the contents."""
    found: list[str] = []
    for message in talk:
        before, content, text = text.partition(message["content"])
        if not content or message["content"] in text:
            raise _OtherError
        found.append(before)
    return [*found, text]


def _without(text: str, *, start: str = "", end: str = "") -> str:
    if not (text.startswith(start) and text.endswith(end)):
        raise _OtherError
    return text[len(start) : len(text) - len(end)]
