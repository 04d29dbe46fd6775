"""Tiny models in folders, with a tokenizer that splits at spaces."""

import json
from pathlib import Path

from tiny_models import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def save(folder: Path, name="bert", kind="classification", tokens=40) -> Path:
    """Save a tiny model with a tokenizer that splits at spaces."""
    tiny(name, kind).save_pretrained(folder)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{f"w{i}": i for i in range(2, tokens)}}
    splitter = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    splitter.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
