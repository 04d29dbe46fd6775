"""Make the packaged model `sample.MODEL` again: tokenizer, then GPT-2 on unpaired text.

    python scripts/pretrain_sample.py    # seed 0, 4500 steps, one thread: 13 minutes

The model sees `pretraining_text` only: inputs alone and texts alone.  The same machine and
library versions give the same bytes.  The time is that of one core of a busy machine.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from leff.tasks.sources import sample

END, PAD = "<|endoftext|>", "<|pad|>"  # the first two tokens
CONTEXT = 128
WORDS = Regex(r"(?: \|)? \w+:| ?\w+| ?[^\s\w]+|\s+")  # " | area:" is one token


def train_tokenizer(seed: int, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer; text starts with a space, so a word has one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(sample.pretraining_text(seed), 20000), trainer)
    return for_generation(tokenizer, CONTEXT)


def for_generation(tokenizer: Tokenizer, positions: int) -> PreTrainedTokenizerFast:
    """Return it as transformers has it: padded on the left, for texts of `positions` tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        model_max_length=positions,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def rows(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Yield rows of CONTEXT tokens; each begins with a document, so position 0 is a start."""
    row: list[int] = []
    for text in sample.pretraining_text(seed):
        row += [*tokenizer.encode(text), tokenizer.eos_token_id]
        if len(row) >= CONTEXT:
            yield row[:CONTEXT]
            row = []


def build(
    vocabulary: int,
    layers: int,
    width: int,
    heads: int,
    *,
    positions: int = CONTEXT,
    dropout: float = 0.0,
) -> GPT2LMHeadModel:
    """Build the untrained model."""
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return GPT2LMHeadModel(config)


def pretrain(model, batches: Iterator[list[list[int]]], steps: int, peak: float) -> None:
    """Train with AdamW, a linear warm-up and a cosine fall to a tenth of `peak`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.perf_counter()
    for step, batch in enumerate(islice(batches, steps), 1):
        fall = 0.55 + 0.45 * math.cos(math.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(step / 100, fall)
        ids = torch.tensor(batch, device=model.device)  # (B, T)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - started
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=sample.MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--vocabulary", type=int, default=1024)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.seed, options.vocabulary)
    model = build(len(tokenizer), options.layers, options.width, heads=4)
    stream = rows(tokenizer, options.seed)
    batches = iter(lambda: list(islice(stream, options.batch)), [])
    pretrain(model, batches, options.steps, options.rate)
    model.half().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{model.num_parameters():,} parameters, {size / 1e6:.1f} MB in {options.out}")


if __name__ == "__main__":
    main()
