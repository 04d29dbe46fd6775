"""Public proxy data without labels, as batches for the server (PAPER Sec. 3.3).

texts = proxy_texts("webnlg", examples=256, seed=0, folder=data_folder)
batches = proxy_batches(texts, tokenizer, "generation", batch_size=16, max_length=96)
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from leff.models.kinds import LANGUAGE_KINDS
from leff.tasks.cut import encode_cut
from leff.tasks.encode import Example, Kind, collate, ensure_padding
from leff.tasks.load import load_task
from leff.tasks.task import draw_rows
from leff.tasks.text_form import USUAL, TextForm

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Text = tuple[str, str | None]  # a text, and its pair; of one task, all have a pair or none has


def proxy_texts(
    task: str,
    *,
    examples: int,
    seed: int,
    folder: Path | None = None,
    train: Path | Sequence[Path] | None = None,
    columns: Mapping[str, str] | None = None,
    form: TextForm = USUAL,
) -> list[Text]:
    """Return up to `examples` texts, drawn with `seed` from a public task's training split.

    Labels are not looked at.  An input in its prompt and its target make one text.  The built-in
    task has its own public stream, which no client holds.  Raises what `load_task` raises.
    """
    if task == "sample":
        from leff.tasks.sources import sample

        return [(text, None) for text in islice(sample.proxy_text(seed), examples)]
    loaded = load_task(task, folder, train=train, columns=columns, labelled=False, seed=seed)
    rows = draw_rows(loaded.train, examples, seed, "proxy")
    if loaded.kind == "generation":
        return [(f"{form.filled(row['input'])} {row['target']}", None) for row in rows]
    if loaded.kind == "chat":
        return [("\n".join(each["content"] for each in row["messages"]), None) for row in rows]
    return [(row["text"], row.get("text_pair")) for row in rows]


def proxy_batches(
    texts: Sequence[Text],
    tokenizer: "PreTrainedTokenizerBase",
    kind: Kind,
    *,
    batch_size: int,
    max_length: int,
) -> list["dict[str, torch.Tensor]"]:
    """Return padded batches, one text a row, cut to `max_length` tokens.

    Texts of less than two tokens are left out.  For a language model (`kind` generation, text or
    chat) ``labels`` are the texts' own tokens, (B, T) with -100 on padding.  A classifier has none.
    """
    import numpy as np

    pad_id = ensure_padding(tokenizer)
    examples: list[Example] = []
    pairs = [pair for _, pair in texts if pair is not None]
    for row in encode_cut(tokenizer, [text for text, _ in texts], pairs or None, max_length):
        if len(row.ids) < 2:
            continue
        types = None if row.types is None else np.array(row.types, dtype=np.int8)
        examples.append(Example(np.array(row.ids, dtype=np.int32), type_ids=types))
    batches = [
        collate(examples[start : start + batch_size], pad_id)
        for start in range(0, len(examples), batch_size)
    ]
    if kind in LANGUAGE_KINDS:
        return batches
    return [{name: v for name, v in batch.items() if name != "labels"} for batch in batches]
