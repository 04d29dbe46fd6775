"""The card of a task: what a device must know to make examples of its own files.

card = task_card(task, form, max_length=96, tokenizer=tokenizer, put=store.put)
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from leff.tasks.encode import ensure_padding
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm
from leff.tasks.tokenizer_part import packed_tokenizer
from leff.wire.json import to_json
from leff.wire.messages import Part, TaskCard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def task_card(
    task: Task,
    form: TextForm,
    max_length: int,
    tokenizer: "PreTrainedTokenizerBase",
    put: Callable[[Mapping[str, torch.Tensor]], Part],
) -> TaskCard:
    """Return a task's card; the tokenizer's files are `put` where devices fetch parts from."""
    return TaskCard(
        kind=task.kind,
        labels=task.labels,
        max_length=max_length,
        prompt=form.prompt,
        special_tokens=form.special_tokens,
        chat="" if form.chat is None else to_json(form.chat),
        pad_id=ensure_padding(tokenizer),
        tokenizer=put(packed_tokenizer(tokenizer)),
    )
