"""Conversations as tokens, in the form of a chat template; answers are what is learnt.

    chat_ids(messages, tokenizer, form, 512)       # ids, and the stretches that are answers
    opened_ids(messages, tokenizer, form, 512)     # up to the answer that is to be written

A device imports this file: it needs no library of data sets or metrics.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from leff.tasks.chat_form import ChatForm, Message
from leff.tasks.cut import cut_left
from leff.tasks.text_form import apart_ids, special_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatIds(NamedTuple):
    """A conversation's token ids, the stretches of them that are learnt, and what it lost."""

    ids: list[int]
    spans: tuple[tuple[int, int], ...]
    turns_lost: int = 0
    cut: bool = False


def opened_ids(
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    form: ChatForm,
    max_length: int,
) -> list[int]:
    """Return the ids of a conversation whose next turn is an answer, at most `max_length`.

    A longer one first loses early turns, then the left of the last one.
    """
    rows, _ = _shorter(messages, tokenizer, form, max_length, opened=True)
    return cut_left([row.id for row in rows], max_length, _head(rows))


def chat_ids(
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    form: ChatForm,
    max_length: int,
) -> ChatIds:
    """Return the ids of a conversation whose last turn is an answer, at most `max_length`.

    A longer one first loses whole early turns, up to the next question.  The system turn stays.
    Then the last question loses its left, down to half of `max_length`, then the answer its right.
    """
    rows, lost = _shorter(messages, tokenizer, form, max_length, opened=False)
    if len(rows) > max_length:
        first = next(i for i, row in enumerate(rows) if row.learnt)
        question, answer = rows[:first], rows[first:]
        room = max(max_length - len(answer), max_length // 2)
        rows = [*cut_left(question, room, _head(rows)), *answer][:max_length]
        return ChatIds([row.id for row in rows], _spans(rows), lost, cut=True)
    return ChatIds([row.id for row in rows], _spans(rows), lost)


class _Token(NamedTuple):
    id: int
    turn: int
    learnt: bool
    own: bool


def _spans(rows: Sequence[_Token]) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    place = 0
    for learnt, group in groupby(rows, key=lambda row: row.learnt):
        size = sum(1 for _ in group)
        spans += [(place, place + size)] if learnt else []
        place += size
    return tuple(spans)


def _head(rows: Sequence[_Token]) -> int:
    """Return the number of tokens before the last question's own text."""
    last = max((row.turn for row in rows if not row.learnt and row.own), default=0)
    return next((i for i, row in enumerate(rows) if row.turn == last and row.own), 0)


def _shorter(
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    form: ChatForm,
    max_length: int,
    *,
    opened: bool,
) -> tuple[list[_Token], int]:
    """Return the tokens of a conversation without as many early turns as it must lose."""
    system = 1 if messages[0]["role"] == "system" else 0
    rows, lost = _tokens(messages, tokenizer, form, opened=opened), 0
    while len(rows) > max_length:
        questions = [i for i, m in enumerate(messages) if m["role"] == "user" and i > system]
        if not questions:
            break
        excess = len(rows) - max_length
        early = (q for q in questions if sum(system <= row.turn < q for row in rows) >= excess)
        first = next(early, questions[-1])
        messages = [*messages[:system], *messages[first:]]
        rows, lost = _tokens(messages, tokenizer, form, opened=opened), lost + first - system
    return rows, lost


def _tokens(
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    form: ChatForm,
    *,
    opened: bool,
) -> list[_Token]:
    """Return a conversation's tokens; one that two pieces share is of the second.

    A conversation in which a special token is written is tokenised in parts.
    """
    pieces = [piece for piece in form.pieces(messages, opened=opened) if piece.text]
    marks = None if form.special_tokens else special_texts(tokenizer)
    written = marks is not None and any(p.own and marks.search(p.text) for p in pieces)
    if tokenizer.is_fast and not written:
        ends = list(accumulate(len(piece.text) for piece in pieces))
        encoded: Any = tokenizer(
            "".join(piece.text for piece in pieces),
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        places = (bisect_right(ends, max(a, b - 1)) for a, b in encoded["offset_mapping"])
        own = (pieces[min(place, len(pieces) - 1)] for place in places)
        return [
            _Token(token, piece.turn, piece.learnt, piece.own)
            for token, piece in zip(encoded["input_ids"], own, strict=True)
        ]
    rows: list[_Token] = []
    for (turn, learnt), group in groupby(pieces, key=lambda piece: (piece.turn, piece.learnt)):
        parts = list(group)
        ids = apart_ids(tokenizer, [(part.text, part.own) for part in parts], marks)
        rows += [_Token(token, turn, learnt, any(part.own for part in parts)) for token in ids]
    return rows
