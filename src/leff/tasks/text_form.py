"""How texts become tokens: the prompt around an input, and special tokens that people write.

    form = TextForm("{input} =")
    tokenizer.chat_template = chat_template(form, tokenizer)     # so that it travels with a model
    form_of(tokenizer)                                           # and back

In a text, ``</s>`` is four characters.  Read as the special token, it would end the text, and
anyone could put control tokens into a model's input.

A device imports this file: it needs no library of data sets or metrics.
"""

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from leff.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leff.tasks.chat_form import ChatForm

log = logging.getLogger("leff.tasks.load")
INPUT = "{input}"


@dataclass(frozen=True)
class TextForm:
    """The form of texts, in training and in generation alike.

    `prompt` is what comes before a target, with the input in the place of ``{input}``.  Special
    tokens in it, such as ``<|im_end|>``, are special tokens.  In the users' own texts they are
    plain text, unless `special_tokens`.  `chat` is the form of conversations, for the kind chat.
    Raises ConfigError for a prompt without exactly one
    ``{input}``.
    """

    prompt: str = "{input} ="
    special_tokens: bool = False
    chat: "ChatForm | None" = None

    def __post_init__(self) -> None:
        if self.prompt.count(INPUT) != 1:
            raise ConfigError(
                f"a prompt must hold {INPUT} once, where the input goes, got {self.prompt[:80]!r}; "
                f"such as '{INPUT} ='"
            )

    def filled(self, text: str) -> str:
        """Return the prompt of an input."""
        return self.prompt.replace(INPUT, text)


USUAL, AS_IT_IS = TextForm(), TextForm(INPUT)


def token_ids(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], form: TextForm = AS_IT_IS
) -> list[list[int]]:
    """Return the ids of plain texts, each in the form's prompt, without special tokens around them.

    A text that holds a special token's characters is tokenised apart from the prompt.
    """
    if not texts:
        return []
    marks = special_texts(tokenizer)
    ids = _ids(tokenizer, [form.filled(text) for text in texts])
    if marks is None or form.special_tokens:
        return ids
    for row, text in enumerate(texts):
        if marks.search(text):
            ids[row] = _apart(tokenizer, text, form, marks)
    return ids


def special_texts(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    """Return the pattern of the tokenizer's special tokens as text; None if it has none."""
    added: Any = getattr(tokenizer, "added_tokens_decoder", {})
    names = {str(token) for token in added.values() if token.special}
    names |= set(tokenizer.all_special_tokens)
    longest = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest))) if longest else None


def _apart(
    tokenizer: "PreTrainedTokenizerBase", text: str, form: TextForm, marks: re.Pattern[str]
) -> list[int]:
    """Return the ids of a text that holds special tokens' characters, in the form's prompt."""
    before, _, after = form.prompt.partition(INPUT)
    return apart_ids(tokenizer, [(before, False), (text, True), (after, False)], marks)


def apart_ids(
    tokenizer: "PreTrainedTokenizerBase",
    pieces: Iterable[tuple[str, bool]],
    marks: re.Pattern[str] | None,
) -> list[int]:
    """Return the ids of one text, in pieces that are people's own (true) or a form's (false).

    The text is cut at the form's special tokens.  What is between them is plain text.
    """
    if marks is None:
        return _ids(tokenizer, ["".join(text for text, _ in pieces)])[0]
    ids: list[int] = []
    held = ""
    for text, own in pieces:
        end = 0
        for mark in () if own else marks.finditer(text):
            ids += _plain(tokenizer, held + text[end : mark.start()], marks)
            ids.append(cast(int, tokenizer.convert_tokens_to_ids(mark.group())))
            held, end = "", mark.end()
        held += text[end:]
    return ids + _plain(tokenizer, held, marks)


def _plain(tokenizer: "PreTrainedTokenizerBase", text: str, marks: re.Pattern[str]) -> list[int]:
    """Return the ids of a text in which nothing is a special token."""
    if not text:
        return []
    return _ids(tokenizer, [as_plain(tokenizer, text, marks)], split_special_tokens=True)[0]


def as_plain(tokenizer: "PreTrainedTokenizerBase", text: str, marks: re.Pattern[str]) -> str:
    """Return a text in which no special token is read if the tokenizer splits them.

    Some vocabularies hold a special token's characters as an ordinary piece too (DeBERTa-v3's
    ``[SEP]``).  There a blank after the first character keeps them apart.
    """
    if not marks.search(text):
        return text
    (ids,) = _ids(tokenizer, [text], split_special_tokens=True)
    unknown = cast("int | None", tokenizer.unk_token_id)
    if not any(token in tokenizer.all_special_ids and token != unknown for token in ids):
        return text
    return marks.sub(lambda mark: f"{mark.group()[0]} {mark.group()[1:]}", text)


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str], **options: Any) -> list[list[int]]:
    """Return token ids without special tokens around; there is no warning for long texts."""
    return tokenizer(texts, add_special_tokens=False, verbose=False, **options)["input_ids"]


def start_ids(tokenizer: "PreTrainedTokenizerBase", form: TextForm = AS_IT_IS) -> list[int]:
    """Return the beginning-of-sequence token if the tokenizer puts one before a text.

    A prompt that begins with that token has it already.
    """
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    if first != [tokenizer.bos_token_id]:
        return []
    return [] if form.prompt.startswith(cast(str, tokenizer.bos_token)) else first


def head_ids(tokenizer: "PreTrainedTokenizerBase", form: TextForm) -> list[int]:
    """Return the ids of what the form puts before an input."""
    before = form.prompt.partition(INPUT)[0]
    return _ids(tokenizer, [before])[0] if before else []


def chat_template(form: TextForm, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return the form as a chat template: the last message's content in the prompt.

    `pipeline("text-generation")` and `apply_chat_template` use it.  They take the rendered text as
    it is, so the beginning-of-sequence token is part of the template.  Some tokenizers (Llama 2's)
    mark the start of a text with a blank, but not after that token: then the template has it.
    """
    before, _, after = form.prompt.partition(INPUT)
    start = start_ids(tokenizer, form)
    if start:
        bos = cast(str, tokenizer.bos_token)
        probe = form.filled("a")
        wanted = start + token_ids(tokenizer, [probe])[0]
        starts = (bos, f"{bos} ")
        before = next((s for s in starts if _ids(tokenizer, [s + probe]) == [wanted]), bos) + before
    literals = [json.dumps(text, ensure_ascii=False) for text in (before, after)]
    return f"{{{{ {literals[0]} + messages[-1]['content'] + {literals[1]} }}}}"


def form_of(tokenizer: "PreTrainedTokenizerBase") -> TextForm | None:
    """Return the form that a tokenizer's chat template gives a single question, or None.

    Raises ModelError for a template that fails, or that changes the question.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    question = [{"role": "user", "content": INPUT}]
    try:
        render: Any = cast(Any, tokenizer).apply_chat_template
        return TextForm(render(question, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program of its own
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the tokenizer's chat template does not take a question ({reason}); give the prompt, "
            f"such as '{INPUT} ='"
        ) from error
