"""A tokenizer as a part: its files as bytes, so that a device makes the very same tokens.

    part = store.put(packed_tokenizer(tokenizer))      # a tensor of bytes for each file
    tokenizer = read_tokenizer(store.get(part))        # on the device

The files come from the network.  Their names, sizes and settings are checked before any is
written, and no code but the library's own runs.  A chat template is a program, and is left out.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from leff.errors import ModelError, shown
from leff.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SETTINGS = "tokenizer_config.json"
FILES = {
    *("tokenizer.json", SETTINGS, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt"),
    *("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model"),
}
LOADING = ("chat_template", "is_local", "local_files_only")  # settings that make no token
MOST_BYTES = 2**27  # of all files; those of the largest vocabularies have a quarter of it


def packed_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> dict[str, torch.Tensor]:
    """Return a tokenizer's files as uint8 tensors (bytes,), by file name."""
    with tempfile.TemporaryDirectory() as folder:
        cast(Any, tokenizer).save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    settings = {k: v for k, v in json.loads(files[SETTINGS]).items() if k not in LOADING}
    files[SETTINGS] = json.dumps(settings, sort_keys=True).encode()
    return {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
        for name, content in sorted(files.items())
        if name in FILES and content
    }


def read_tokenizer(files: Mapping[str, torch.Tensor]) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of `packed_tokenizer`'s files.

    Raises ModelError for a file that is none of a tokenizer's, for too many bytes, for settings
    that name other files or code, and for files that make no tokenizer.
    """
    from transformers import AutoTokenizer

    _check(files)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content.numpy().tobytes())
        try:
            with quiet():
                return cast(Any, AutoTokenizer).from_pretrained(
                    folder, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # damaged files make the library raise errors of any type
            raise ModelError(
                f"the server's tokenizer cannot be read here ({type(error).__name__}); see that "
                "both sides have the same transformers"
            ) from error


def _check(files: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelError, before anything is written, for files that may be none of a tokenizer."""
    for name, content in files.items():
        if name not in FILES:
            raise ModelError(f"the server's tokenizer has a file {shown(name)}, which none needs")
        if content.dtype != torch.uint8 or content.dim() != 1:
            raise ModelError(f"{name} of the server's tokenizer does not hold bytes")
    size = sum(content.numel() for content in files.values())
    if size > MOST_BYTES:
        raise ModelError(
            f"the server's tokenizer has {size:,} bytes; the most that is read is {MOST_BYTES:,}"
        )
    _check_settings(files)


def _check_settings(files: Mapping[str, torch.Tensor]) -> None:
    try:
        settings = json.loads(files[SETTINGS].numpy().tobytes())
        names = set(cast("dict[str, Any]", settings))
        if not isinstance(settings, dict):
            raise TypeError
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ModelError(f"the server's tokenizer has no {SETTINGS} that can be read") from None
    for name in sorted(names):
        if name in ("auto_map", "chat_template") or name.endswith(("_file", "_path", "_url")):
            raise ModelError(
                f"{SETTINGS} of the server's tokenizer names code or files ({name}), which LEFF "
                "never runs or reads; take it out of the start model"
            )
