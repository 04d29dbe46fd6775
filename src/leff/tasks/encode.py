"""From rows to token ids and batches.

    examples = encode(task.train, tokenizer, task.kind, max_length=128)
    batch = collate(examples[:8], ensure_padding(tokenizer))

A generation example is the prompt (`text_form`), the target, and the end token.  Only the target
and the end token carry labels.  Prompt and target are tokenised apart, so that the boundary is
exact, and generation sees the same prompt tokens as training.

A device imports this file: it needs no library of data sets or metrics.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from leff.errors import ConfigError, ModelError
from leff.tasks.chat import chat_ids
from leff.tasks.chat_form import Message, chat_form
from leff.tasks.cut import cut_left, encode_cut
from leff.tasks.text_form import (
    AS_IT_IS,
    USUAL,
    TextForm,
    head_ids,
    special_texts,
    start_ids,
    token_ids,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("leff.tasks.load")

Kind = Literal["generation", "classification", "multilabel", "regression", "text", "chat"]
Columns = Mapping[str, Sequence[Any]]


class Sliced(Protocol):
    """Rows as mappings in a list, or a table (`columns.Table`), whose slices are columns."""

    def __getitem__(self, rows: slice, /) -> Sequence[Mapping[str, Any]] | Columns: ...


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training example: `input_ids` (T,) int32, and its label.

    `label` is a class id, a score, or for several classes a 1.0 or 0.0 for each, (K,).  If it is
    None, the labels are the tokens from position `prompt_tokens` on, or those of `spans`, if there
    are any.  `type_ids` (T,) int8 tells the two sentences apart, for BERT and its kin.
    """

    input_ids: "np.ndarray"
    prompt_tokens: int = 0
    label: int | float | tuple[float, ...] | None = None
    type_ids: "np.ndarray | None" = None
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def number(self) -> float:
        """The class id or the score; 0 if the label is neither."""
        return self.label if isinstance(self.label, int | float) else 0

    @property
    def learnt(self) -> tuple[tuple[int, int], ...]:
        """The stretches of tokens that are labels."""
        return self.spans or ((self.prompt_tokens, len(self.input_ids)),)

    @property
    def facts(self) -> str:
        """What the example is beside its tokens, in one line, for a digest."""
        spans = f" {self.spans}" if self.spans else ""
        return f"{len(self.input_ids)} {self.prompt_tokens} {self.label}{spans}\n"


def prompt_ids(
    inputs: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    form: TextForm = AS_IT_IS,
) -> list[list[int]]:
    """Return the token ids of the inputs' prompts, each cut to `max_length` tokens.

    The cut drops the left of an input.  It keeps the beginning-of-sequence token if the tokenizer
    uses one, and what the form puts around the input.  Raises ConfigError for a `max_length`
    below 4.
    """
    _check(max_length)
    start, head = start_ids(tokenizer, form), len(head_ids(tokenizer, form))
    room, prompts = max_length - len(start), token_ids(tokenizer, list(inputs), form)
    return [start + cut_left(ids, room, head) for ids in prompts]


def encode(
    table: Sliced,
    tokenizer: "PreTrainedTokenizerBase",
    kind: Kind,
    max_length: int,
    form: TextForm = USUAL,
) -> list[Example]:
    """Tokenise rows with canonical columns, at most `max_length` tokens an example.

    - generation: prompt, target, end token.  A long example first loses the left of its prompt,
      down to half of `max_length`, then the right of its target, with the end token.  The target
      of rows with ``references`` is the first of them.
    - chat: conversations in the form of a chat template, with labels on all answers.  A long one
      first loses whole early turns.
    - text: documents joined by the end token and cut into chunks.  A last chunk of one token is
      dropped, since it predicts nothing.
    - classification, multilabel, regression: the tokenizer's own encoding of pairs, cut as its
      truncation does.

    The number of cut examples is logged, but for chunks, which lose nothing.
    Raises ConfigError for a `max_length` below 4, ModelError for a tokenizer without an end token.
    """
    _check(max_length)
    columns = _columns(table)
    if not columns:
        return []
    _mention_special(columns, tokenizer, form)
    if kind == "generation":
        return _generation(columns, tokenizer, max_length, form)
    if kind == "chat":
        return _chats(columns["messages"], tokenizer, max_length, form)
    plain = replace(form, prompt=AS_IT_IS.prompt)
    if kind == "text":
        return list(_chunks(columns["text"], tokenizer, max_length, plain))
    return _sentences(columns, tokenizer, max_length, plain)


def ensure_padding(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the id of the padding token.

    If the tokenizer has none, this sets it to the end token and logs that.  Raises ModelError if
    there is no end token either.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has neither a padding nor an end token; set tokenizer.pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
        log.info("the tokenizer has no padding token: padding with %r", tokenizer.eos_token)
    return cast(int, tokenizer.pad_token_id)


def by_length(examples: Sequence[Example]) -> list[int]:
    """Return the examples' indices, short ones first, so that batches have little padding."""
    return sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))


def collate(
    examples: Sequence[Example], pad_id: int, side: Literal["left", "right"] = "right"
) -> "dict[str, torch.Tensor]":
    """Pad examples to their longest and stack them.

    Returns ``input_ids`` and ``attention_mask`` (B, T), and ``token_type_ids`` (B, T) if the
    examples have them.  ``labels`` are (B, T) with -100 on prompt and padding, (B,) for class ids
    (long) and scores (float32), or (B, K) for several classes (float32).
    """
    import numpy as np
    import torch

    from leff.models.losses import IGNORED

    length = max(len(example.input_ids) for example in examples)
    shape = (len(examples), length)
    ids = np.full(shape, pad_id, dtype=np.int64)
    mask, types = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    token_labels = np.full(shape, IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        size = len(example.input_ids)
        first = length - size if side == "left" else 0
        ids[row, first : first + size] = example.input_ids
        mask[row, first : first + size] = 1
        for start, stop in example.learnt:
            answer = slice(first + start, first + stop)
            token_labels[row, answer] = ids[row, answer]
        if example.type_ids is not None:
            types[row, first : first + size] = example.type_ids
    batch = {"input_ids": torch.as_tensor(ids), "attention_mask": torch.as_tensor(mask)}
    if examples[0].type_ids is not None:
        batch["token_type_ids"] = torch.as_tensor(types)
    values = [example.label for example in examples if example.label is not None]
    if not values:
        return batch | {"labels": torch.as_tensor(token_labels)}
    kind = torch.long if isinstance(values[0], int) else torch.float32
    return batch | {"labels": torch.tensor(values, dtype=kind)}


def _check(max_length: int) -> None:
    if max_length < 4:
        raise ConfigError(f"max_length must be at least 4 tokens, got {max_length}")


def _mention_special(
    columns: Columns, tokenizer: "PreTrainedTokenizerBase", form: TextForm
) -> None:
    """Log how many rows hold special tokens as text, and how these are read."""
    marks = special_texts(tokenizer)
    if marks is None:
        return
    texts = [columns[name] for name in ("input", "target", "text", "text_pair") if name in columns]
    contents = [[turn["content"] for turn in talk] for talk in columns.get("messages", ())]
    rows = contents or zip(*texts, strict=True)
    rows = [row for row in rows if any(map(marks.search, row))]
    if rows:
        log.warning(
            "%d rows hold special tokens such as %s, read as %s (data.special_tokens)",
            len(rows),
            next(found.group() for text in rows[0] if (found := marks.search(text))),
            "tokens" if form.special_tokens else "plain text",
        )


def _end(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token, so generated text would never end; "
            "set tokenizer.eos_token, or use a causal language model's tokenizer"
        )
    return cast(int, tokenizer.eos_token_id)


def _blank(tokenizer: Any, form: TextForm) -> str:
    """Return what comes before a target: a blank, unless something else parts it from the prompt.

    A prompt may end in white space or in a special token.  SentencePiece with a dummy prefix reads
    "a" as a new word.  Byte-level BPE would glue it to the word before.
    """
    special = tuple(tokenizer.all_special_tokens)
    if form.prompt[-1:].isspace() or form.prompt.endswith(special):
        return ""
    (ids,) = token_ids(tokenizer, ["a"])
    return "" if tokenizer.decode(ids + ids).strip() == "a a" else " "


def _columns(table: Sliced) -> Columns:
    rows = table[:]
    if isinstance(rows, Mapping):
        return rows
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _generation(
    columns: Columns, tokenizer: "PreTrainedTokenizerBase", max_length: int, form: TextForm
) -> list[Example]:
    import numpy as np

    targets: Sequence[str]
    if "target" in columns:
        targets = columns["target"]
    else:
        targets = [references[0] for references in columns["references"]]
    end, blank = _end(tokenizer), _blank(tokenizer, form)
    start, head = start_ids(tokenizer, form), len(head_ids(tokenizer, form))
    inputs: Sequence[str] = columns["input"]
    distinct = list(dict.fromkeys(inputs))  # an input may have many targets
    prompts = dict(zip(distinct, token_ids(tokenizer, distinct, form), strict=True))
    plain = replace(form, prompt=blank + AS_IT_IS.prompt)
    answers = token_ids(tokenizer, targets, plain)
    examples: list[Example] = []
    cut = 0
    for text, answer in zip(inputs, answers, strict=True):
        ids = prompts[text]
        answer = [*answer, end]
        room = max(max_length - len(answer), max_length // 2) - len(start)
        question = start + cut_left(ids, room, head)
        whole = np.array((question + answer)[:max_length], dtype=np.int32)
        cut += len(whole) < len(start) + len(ids) + len(answer)
        examples.append(Example(whole, prompt_tokens=len(question)))
    _log_cut(cut, len(examples), max_length)
    return examples


def _chats(
    talks: Sequence[Sequence[Message]],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    form: TextForm,
) -> list[Example]:
    import numpy as np

    chat = form.chat or chat_form(tokenizer, special_tokens=form.special_tokens)
    rows = [chat_ids(talk, tokenizer, chat, max_length) for talk in talks]
    lost = sum(row.turns_lost > 0 for row in rows)
    if lost:
        log.warning(
            "%d of %d conversations lost early turns, to fit into %d tokens (data.max_length)",
            lost,
            len(rows),
            max_length,
        )
    _log_cut(sum(row.cut for row in rows), len(rows), max_length)
    return [Example(np.array(row.ids, dtype=np.int32), spans=row.spans) for row in rows]


def _log_cut(cut: int, examples: int, max_length: int) -> None:
    if cut:
        log.warning("%d of %d examples cut to %d tokens", cut, examples, max_length)


def _chunks(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_length: int, form: TextForm
) -> Iterator[Example]:
    import numpy as np

    start, end = start_ids(tokenizer), _end(tokenizer)
    held: list[int] = []
    for first in range(0, len(texts), 1000):
        for ids in token_ids(tokenizer, texts[first : first + 1000], form):
            held += [*start, *ids, end]
        whole = len(held) - len(held) % max_length
        for chunk in np.array(held[:whole], dtype=np.int32).reshape(-1, max_length):
            yield Example(chunk.copy())  # not a view, which would keep its batch alive
        held = held[whole:]
    if len(held) > 1:
        yield Example(np.array(held, dtype=np.int32))


def _sentences(columns: Columns, tokenizer: Any, max_length: int, form: TextForm) -> list[Example]:
    import numpy as np

    examples: list[Example] = []
    cut = 0
    rows = encode_cut(tokenizer, columns["text"], columns.get("text_pair"), max_length, form)
    for row, label in zip(rows, columns["label"], strict=True):
        types = None if row.types is None else np.array(row.types, dtype=np.int8)
        examples.append(Example(np.array(row.ids, dtype=np.int32), label=label, type_ids=types))
        cut += row.cut
    _log_cut(cut, len(examples), max_length)
    return examples
