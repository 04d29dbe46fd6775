"""From rows to token ids and batches.

    examples = encode(task.train, tokenizer, task.kind, max_length=128)
    batch = collate(examples[:8], ensure_padding(tokenizer))

A generation example is ``prompt(input)``, the target, and the end token; only the last two carry
labels.  The two are tokenised apart, so that the boundary is exact and generation sees the very
tokens that training saw.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leff.errors import ConfigError, ModelError
from leff.tasks.task import Kind

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset

log = logging.getLogger("leff.tasks.load")


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One training example: `input_ids` (T,) int32, and one of the two kinds of label.

    `label` is a class id or a score.  Without one, the labels are the tokens themselves from
    position `prompt_tokens` on.  `type_ids` (T,) marks the sentences for BERT and its kin.
    """

    input_ids: "np.ndarray"
    prompt_tokens: int = 0
    label: int | float | None = None
    type_ids: "np.ndarray | None" = None


def prompt(text_input: str) -> str:
    """Return the text that comes before the target, in training and in generation.

    An input that ends in a colon, as MMLU's "Answer:", asks by itself; others get a separator.
    """
    return text_input if text_input.endswith(":") else f"{text_input} ="


def prompt_ids(prompts: Sequence[str], tokenizer: Any, max_length: int) -> list[list[int]]:
    """Return the token ids of prompts, cut from the left to `max_length` tokens.

    The cut keeps a beginning-of-sequence token, if the tokenizer uses one, and the separator.
    Raises ConfigError for a `max_length` below 4.
    """
    _check(max_length)
    start = _start(tokenizer)
    room = max_length - len(start)
    return [start + ids[-room:] for ids in _ids(tokenizer, list(prompts))]


def encode(dataset: "Dataset", tokenizer: Any, kind: Kind, max_length: int) -> list[Example]:
    """Tokenise a data set with canonical columns, at most `max_length` tokens an example.

    - generation: prompt, target, end token.  What is too long loses the left of the prompt, down
      to half of `max_length`, then the right of the target (and with it the end token).  Rows
      with ``references`` in place of ``target`` take the first.
    - text: documents joined by the end token and cut into chunks; a last chunk of one token,
      which predicts nothing, is dropped.
    - classification, regression: the tokenizer's own pair encoding and truncation.

    Raises ConfigError for a `max_length` below 4, ModelError for a tokenizer without an end token.
    """
    _check(max_length)
    if kind == "generation":
        return _generation(dataset, tokenizer, max_length)
    if kind == "text":
        return list(_chunks(dataset["text"], tokenizer, max_length))
    return _sentences(dataset, tokenizer, max_length)


def ensure_padding(tokenizer: Any) -> int:
    """Return the id of the padding token; one that is missing becomes the end token, logged.

    Raises ModelError if the tokenizer has neither.
    """
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has neither a padding nor an end token; set tokenizer.pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
        log.info("the tokenizer has no padding token: padding with %r", tokenizer.eos_token)
    return tokenizer.pad_token_id  # pyright: ignore[reportReturnType] (set just above)


def by_length(examples: Sequence[Example]) -> list[int]:
    """Return the examples' indices, short ones first: such batches have little padding."""
    return sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))


def collate(
    examples: Sequence[Example], pad_id: int, side: Literal["left", "right"] = "right"
) -> "dict[str, torch.Tensor]":
    """Pad examples to their longest and stack them.

    Returns ``input_ids`` and ``attention_mask`` (B, T), ``labels`` (B, T) with -100 on prompt and
    padding, or (B,) long or float32, and ``token_type_ids`` (B, T) if the examples have them.
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
        answer = slice(first + example.prompt_tokens, first + size)
        token_labels[row, answer] = ids[row, answer]
        if example.type_ids is not None:
            types[row, first : first + size] = example.type_ids
    batch = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if examples[0].type_ids is not None:
        batch["token_type_ids"] = torch.from_numpy(types)
    values = [example.label for example in examples if example.label is not None]
    if not values:
        return batch | {"labels": torch.from_numpy(token_labels)}
    kind = torch.float32 if isinstance(values[0], float) else torch.long
    return batch | {"labels": torch.tensor(values, dtype=kind)}


def _check(max_length: int) -> None:
    if max_length < 4:
        raise ConfigError(f"max_length must be at least 4 tokens, got {max_length}")


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids without special tokens; a text of any length, so no warning about the model's."""
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _start(tokenizer: Any) -> list[int]:
    """The beginning-of-sequence token, for tokenizers that put one before a text."""
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _end(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token, so generated text would never end; "
            "set tokenizer.eos_token, or use a causal language model's tokenizer"
        )
    return tokenizer.eos_token_id


def _blank(tokenizer: Any) -> str:
    """What to put before a target: a blank for tokenizers that do not mark word starts anyway.

    SentencePiece with a dummy prefix reads "a" as a new word; byte-level BPE would glue it.
    """
    (ids,) = _ids(tokenizer, ["a"])
    return "" if tokenizer.decode(ids + ids).strip() == "a a" else " "


def _generation(dataset: "Dataset", tokenizer: Any, max_length: int) -> list[Example]:
    import numpy as np

    if "target" in dataset.column_names:
        targets = list(dataset["target"])
    else:
        targets = [references[0] for references in dataset["references"]]
    end, blank, start = _end(tokenizer), _blank(tokenizer), _start(tokenizer)
    inputs = list(dataset["input"])
    distinct = list(dict.fromkeys(inputs))  # an input may have many targets
    prompts = dict(zip(distinct, _ids(tokenizer, [prompt(t) for t in distinct]), strict=True))
    answers = _ids(tokenizer, [blank + target for target in targets])
    examples, cut = [], 0
    for text, answer in zip(inputs, answers, strict=True):
        ids = prompts[text]
        answer = [*answer, end]
        room = max(max_length - len(answer), max_length // 2) - len(start)
        head = start + ids[-room:]
        whole = np.array((head + answer)[:max_length], dtype=np.int32)
        cut += len(whole) < len(start) + len(ids) + len(answer)
        examples.append(Example(whole, prompt_tokens=len(head)))
    if cut:
        log.warning("%d of %d examples cut to %d tokens", cut, len(examples), max_length)
    return examples


def _chunks(texts: Sequence[str], tokenizer: Any, max_length: int) -> Iterator[Example]:
    import numpy as np

    start, end = _start(tokenizer), _end(tokenizer)
    held: list[int] = []
    texts = list(texts)
    for first in range(0, len(texts), 1000):
        for ids in _ids(tokenizer, texts[first : first + 1000]):
            held += [*start, *ids, end]
        whole = len(held) - len(held) % max_length
        for chunk in np.array(held[:whole], dtype=np.int32).reshape(-1, max_length):
            yield Example(chunk.copy())  # not a view, which would keep its batch alive
        held = held[whole:]
    if len(held) > 1:
        yield Example(np.array(held, dtype=np.int32))


def _sentences(dataset: "Dataset", tokenizer: Any, max_length: int) -> list[Example]:
    import numpy as np

    if not len(dataset):
        return []
    pairs = list(dataset["text_pair"]) if "text_pair" in dataset.column_names else None
    encoded = tokenizer(list(dataset["text"]), pairs, truncation=True, max_length=max_length)
    types = encoded.get("token_type_ids") or [None] * len(dataset)
    return [
        Example(
            np.array(ids, dtype=np.int32),
            label=label,
            type_ids=None if kinds is None else np.array(kinds, dtype=np.int8),
        )
        for ids, kinds, label in zip(encoded["input_ids"], types, dataset["label"], strict=True)
    ]
