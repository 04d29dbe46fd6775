"""Text from inputs, in batches: greedy, or by beam search.

texts = generate(model, tokenizer, ["name: Heron Path | area: Mossdale"], max_new_tokens=64)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from leff.errors import ConfigError
from leff.models import positions
from leff.tasks.chat import opened_ids
from leff.tasks.chat_form import Message
from leff.tasks.encode import Example, collate, ensure_padding, prompt_ids
from leff.tasks.text_form import USUAL, TextForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_PROMPT = 4  # tokens; fewer would leave out the separator


@torch.no_grad()
def generate(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    inputs: Sequence[str | Sequence[Message]],
    *,
    max_new_tokens: int = 64,
    beams: int = 1,
    batch_size: int = 32,
    max_length: int = 512,
    form: TextForm = USUAL,
) -> list[str]:
    """Return one text per input, in their order, without special tokens and outer blanks.

    `beams` is the beam width, 1 for greedy decoding.  Nothing is sampled.  `form` makes the prompt
    of an input.  If it has a `chat`, an input may be a conversation, and a text is a question.  An
    input loses its left if its prompt has more than `max_length` tokens, or more than the positions
    that the new tokens leave.  Inputs of similar length share a batch, to compute little padding.

    Raises ConfigError if `max_new_tokens` leaves no room for a prompt.
    """
    import numpy as np

    pad_id = ensure_padding(tokenizer)
    device = next(model.parameters()).device
    room = min(max_length, _room(model, max_new_tokens))
    prompts = _prompts(inputs, tokenizer, room, form)
    ends = cast(Any, model).generation_config.eos_token_id
    if not all(prompts):
        raise ConfigError("an input is empty, and this model's prompt adds nothing; leave it out")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        examples = [Example(np.array(prompts[i], dtype=np.int32)) for i in chosen]
        batch = collate(examples, pad_id, side="left")
        generated: torch.Tensor = cast(Any, model).generate(
            input_ids=batch["input_ids"].to(device),
            attention_mask=batch["attention_mask"].to(device),
            max_new_tokens=max_new_tokens,
            num_beams=beams,
            do_sample=False,
            pad_token_id=pad_id,
            eos_token_id=tokenizer.eos_token_id if ends is None else ends,
        )
        new = generated[:, batch["input_ids"].shape[1] :]
        written: list[str] = cast(Any, tokenizer).batch_decode(new, skip_special_tokens=True)
        for i, text in zip(chosen, written, strict=True):
            texts[i] = text.strip()
    model.train(was_training)
    return texts


def _prompts(
    inputs: Sequence[str | Sequence[Message]],
    tokenizer: "PreTrainedTokenizerBase",
    room: int,
    form: TextForm,
) -> list[list[int]]:
    if form.chat is None:
        texts = [text for text in inputs if isinstance(text, str)]
        return prompt_ids(texts, tokenizer, room, form)
    talks = [[{"role": "user", "content": t}] if isinstance(t, str) else t for t in inputs]
    return [opened_ids(talk, tokenizer, form.chat, room) for talk in talks]


def _room(model: Any, max_new_tokens: int) -> int:
    """Return the positions that the new tokens leave for a prompt."""
    most = positions(model.config)
    if most - max_new_tokens < MIN_PROMPT:
        raise ConfigError(
            f"max_new_tokens must be at most {most - MIN_PROMPT} for a model of {most} positions, "
            f"got {max_new_tokens}"
        )
    return most - max_new_tokens
