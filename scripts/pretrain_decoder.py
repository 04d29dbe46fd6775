"""Pretrain a small GPT-2 on the texts of WikiText-103 and WebNLG: a start for trials on E2E.

    python scripts/pretrain_decoder.py --data-dir DATA --out decoder    # a GPU: minutes
    leff run --model decoder --data-dir DATA --set data.task=e2e

Its 13.9 million parameters are for the slice of WikiText-103 (2.9 MB) and WebNLG's training texts
(2.0 MB) together; of the whole WikiText-103 `--width 512 --layers 8` would make better use.  The
texts of a pass are in a new order each time; WebNLG's inputs are not seen, nor anything of E2E.

Prints the loss on WikiText's validation lines and on WebNLG's validation texts, in nats a token
and, for comparing tokenizers, in bits a byte.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import torch
from pretrain_sample import END, PAD, build, for_generation, pretrain
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from leff.errors import LeffError
from leff.tasks.load import load_task


def read(folder: Path | None) -> tuple[list[str], dict[str, list[str]]]:
    """Return the training texts, and the validation texts of each corpus."""
    wikitext, webnlg = load_task("text", folder), load_task("webnlg", folder)
    held = {
        "WikiText-103": list(wikitext.validation["text"]),
        "WebNLG": [text for texts in webnlg.validation["references"] for text in texts],
    }
    return [*wikitext.train["text"], *webnlg.train["target"]], held


def train_tokenizer(
    texts: Sequence[str], vocabulary: int, positions: int
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, as GPT-2's, of `vocabulary` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return for_generation(tokenizer, positions)


def encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return each text's tokens with the end of text before them, as a model starts on it."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]  # rows may be longer than the model's
    return [[tokenizer.eos_token_id, *row] for row in rows]


def batches(
    documents: list[list[int]], size: int, positions: int, seed: int
) -> Iterator[list[list[int]]]:
    """Yield batches of `size` rows of `positions` tokens, pass after pass in new orders."""
    order, row, batch = Random(seed), [], []
    while True:
        for document in order.sample(documents, len(documents)):
            row += document
            while len(row) >= positions:
                batch.append(row[:positions])
                row = row[positions:]
                if len(batch) == size:
                    yield batch
                    batch = []


@torch.no_grad()
def measure(model, documents: list[list[int]], texts: Sequence[str]) -> tuple[float, float]:
    """Return the loss over all of `texts` in nats a token and bits a byte."""
    model.eval()
    tokens = torch.tensor([token for document in documents for token in document])
    positions = min(model.config.n_positions, len(tokens))
    rows = tokens[: len(tokens) // positions * positions].view(-1, positions)
    total = 0.0
    for ids in rows.to(model.device).split(16):
        total += model(input_ids=ids, labels=ids).loss.item() * len(ids)
    nats, length = total / len(rows), sum(len(text.encode()) for text in texts)
    return nats, nats * len(tokens) / math.log(2) / length


def main() -> None:
    """Train, measure and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data-dir", type=Path, help="where the data is; else LEFF_DATA, else the hub")
    add("--out", type=Path, required=True, help="the model's folder")
    add("--seed", type=int, default=0)
    add("--steps", type=int, default=1500)
    add("--batch", type=int, default=32, help="rows a step")
    add("--positions", type=int, default=256, help="tokens a row")
    add("--rate", type=float, default=2e-3)
    add("--dropout", type=float, default=0.1)
    add("--layers", type=int, default=6)
    add("--width", type=int, default=384)
    add("--vocabulary", type=int, default=8192)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    try:
        texts, held = read(options.data_dir)
    except LeffError as error:
        parser.error(str(error))
    tokenizer = train_tokenizer(texts, options.vocabulary, options.positions)
    documents = encode(texts, tokenizer)
    print(f"{len(texts):,} texts, {sum(map(len, documents)):,} tokens", flush=True)
    model = build(
        len(tokenizer),
        options.layers,
        options.width,
        heads=max(options.width // 64, 1),
        positions=options.positions,
        dropout=options.dropout,
    ).to("cuda" if torch.cuda.is_available() else "cpu")
    stream = batches(documents, options.batch, options.positions, options.seed)
    pretrain(model, islice(stream, options.steps), options.steps, options.rate)
    for name, corpus in held.items():
        nats, bits = measure(model, encode(corpus, tokenizer), corpus)
        print(f"{name}: {nats:.3f} nats a token, {bits:.3f} bits a byte", flush=True)
    model.cpu().half().save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{model.num_parameters():,} parameters, {size / 1e6:.1f} MB in {options.out}")


if __name__ == "__main__":
    main()
