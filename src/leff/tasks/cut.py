"""Texts, and pairs of texts, as token ids that are cut as the tokenizer's own truncation cuts them.

The library's `truncation=True` also builds all pieces that it cuts off, and for a pair every piece
of one text beside every piece of the other.  Its time grows with the square of the length.  Here a
text is encoded whole, and the positions that stay are taken from it.

    ids, types, cut = next(encode_cut(tokenizer, ["a long text"], ["its pair"], max_length=8))
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from leff.tasks.text_form import AS_IT_IS, TextForm, as_plain, special_texts

T = TypeVar("T")
_ROWS = 1000  # encoded at a time, since whole texts may be long


class Cut(NamedTuple):
    """One text, or pair, with its special tokens: `ids` and `types` have the same length."""

    ids: list[int]
    types: list[int] | None  # which of the two texts a token is of, if the model asks for it
    cut: bool  # whether tokens are missing


def encode_cut(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    form: TextForm = AS_IT_IS,
) -> Iterator[Cut]:
    """Yield the tokens of each text, or of each text and its pair, at most `max_length` of them.

    The tokens are those of ``tokenizer(text, pair, truncation=True, max_length=max_length)``, in a
    time that grows with the length.  `form` says how special tokens in them are read.
    """
    marks = None if form.special_tokens else special_texts(tokenizer)
    for first in range(0, len(texts), _ROWS):
        rows = slice(first, first + _ROWS)
        own = [list(texts[rows])] + ([] if pairs is None else [list(pairs[rows])])
        options: dict[str, Any] = {}
        if marks and any(marks.search(text) for column in own for text in column):
            own = [[as_plain(tokenizer, text, marks) for text in column] for column in own]
            options = {"split_special_tokens": True}
        encoded = tokenizer(*own, verbose=False, **options)
        types = encoded.get("token_type_ids") or [None] * len(own[0])
        for row, (ids, kinds) in enumerate(zip(encoded["input_ids"], types, strict=True)):
            if len(ids) <= max_length:
                yield Cut(ids, kinds, cut=False)
            elif tokenizer.is_fast:
                stay = _positions(encoded.sequence_ids(row), max_length, tokenizer.truncation_side)
                yield Cut(_take(ids, stay), None if kinds is None else _take(kinds, stay), cut=True)
            else:  # it does not say which token is of which text, and its own cut is quick
                (text, *pair) = (column[row] for column in own)
                whole = tokenizer(text, *pair, truncation=True, max_length=max_length, **options)
                yield Cut(whole["input_ids"], whole.get("token_type_ids"), cut=True)


def cut_left(ids: list[T], room: int, head: int = 0) -> list[T]:
    """Return the last `room` ids; of more, behind the first `head` if these are not too many."""
    if len(ids) <= room or head > room // 2:
        return ids[-room:]
    return ids[:head] + ids[len(ids) - room + head :]


def kept(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts with `first` and `second` tokens stay in `room`.

    The rule is "longest_first" of `tokenizers` (utils/truncation.rs): the longer text is cut, down
    to half of the room.  An odd token goes to the longer one, or to the second of two equal ones.
    """
    if first + second <= room:
        return first, second
    less = min(first, second, room // 2)
    return (room - less, less) if first > second else (less, room - less)


def _positions(sources: Sequence[int | None], max_length: int, side: str) -> list[int]:
    """Return the positions that stay; `sources` says 0 or 1 by text, and None if special."""
    texts = [[place for place, source in enumerate(sources) if source == of] for of in (0, 1)]
    stay = [place for place, source in enumerate(sources) if source is None]
    sizes = kept(len(texts[0]), len(texts[1]), max(0, max_length - len(stay)))
    for places, size in zip(texts, sizes, strict=True):
        stay += places[len(places) - size :] if side == "left" else places[:size]
    return sorted(stay)


def _take(values: Sequence[int], places: Sequence[int]) -> list[int]:
    return [values[place] for place in places]
