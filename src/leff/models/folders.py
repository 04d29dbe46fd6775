"""What is looked at in a model's files before the library builds anything from them.

check_config(values, name)        # of config.json, as read
check_files(folder)
place, more = place_of("walks.gguf")      # ".", {"gguf_file": "walks.gguf"}

Anybody can give a model away.  None of its code is run, no file outside its folder is read, and no
size is taken from it that nothing could hold.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from transformers import CONFIG_MAPPING

from leff.errors import ModelError, shown
from leff.extras import need

SIZES = {  # the largest that is believed, by the library's common names
    "num_hidden_layers": 10_000,
    "hidden_size": 2**20,
    "num_attention_heads": 2**16,
    "num_key_value_heads": 2**16,
    "head_dim": 2**16,
    "intermediate_size": 2**24,
    "vocab_size": 2**27,
    "max_position_embeddings": 2**26,
    "num_labels": 10**6,
}
CODE = ("attn_implementation", "experts_implementation")  # may name a program on the hub


MOST_PER_BYTE = 8  # values in a byte of a GGUF file, whatever its blocks


def is_gguf(name: str | Path) -> bool:
    """Return whether a model's name is that of a GGUF file, which holds weights and tokenizer."""
    return Path(name).suffix == ".gguf"


def place_of(name: str | Path) -> tuple[str, dict[str, str]]:
    """Return what the library's `from_pretrained` takes for a model: a place, and more options.

    Raises UsageError for a GGUF file if the package that reads those is not installed.
    """
    if not is_gguf(name):
        return str(name), {}
    need("gguf", f"{name} is a GGUF file, and to read it")
    return str(Path(name).parent), {"gguf_file": Path(name).name}


def check_config(values: object, name: str | Path) -> None:
    """Raise ModelError for a configuration that is no object, or one with impossible sizes.

    Sections in it, such as a `text_config`, are looked at too.
    """
    if not isinstance(values, dict):
        raise ModelError(f"the config.json of {name} must hold an object, got {shown(values)}")
    for section in _sections(cast("dict[str, Any]", values)):
        own = _names_of(section)
        for common, most in SIZES.items():
            for key in {common, own.get(common, common)} & section.keys():
                _check_size(name, key, section[key], most)
        for key in (*CODE, *(f"_{each}" for each in CODE)):
            if "/" in str(section.get(key)):
                raise ModelError(
                    f"{name} asks for code from elsewhere ({key} = {shown(section[key])}), which "
                    "LEFF never runs; take it out of its config.json"
                )


def _sections(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield values
    for value in values.values():
        if isinstance(value, dict):
            yield cast("dict[str, Any]", value)


def _names_of(section: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what an architecture calls the common sizes, such as n_layer, by common name."""
    kind = section.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return {}
    return CONFIG_MAPPING[kind].attribute_map


def _check_size(name: str | Path, key: str, value: object, most: int) -> None:
    """Raise ModelError for a number outside 1 to `most`.

    Other types are left to the library: some architectures have a list, one size a layer.
    """
    if isinstance(value, int | float) and not 1 <= value <= most:
        raise ModelError(
            f"the config.json of {name} has {key} = {shown(value)}, which must be a whole number "
            f"from 1 to {most:,}"
        )


def check_files(folder: Path) -> None:
    """Raise ModelError for an adapter in place of a model, and for weights outside the folder."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds an adapter; merge it into its model, and give that")
    for index in sorted(folder.glob("*.index.json")):
        for file in _indexed(index):
            path = Path(file) if isinstance(file, str) else None
            if path is None or path.is_absolute() or ".." in path.parts:
                raise ModelError(
                    f"{index} names a file that is not in its folder: {shown(file)}; take a "
                    "complete checkpoint"
                )


def _indexed(index: Path) -> list[object]:
    """Return the names of files in an index of weights."""
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        return list(values["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is no index of weights; take a complete checkpoint") from None


def check_room(path: Path, values: int) -> None:
    """Raise ModelError if a model of so many values is larger than the files of its weights.

    The library fills in what is missing, so an absurd size would take all memory.  In a folder a
    value takes a byte at least, in a GGUF file an eighth of one.
    """
    suffixes = {".safetensors", ".bin"}
    files = [path] if is_gguf(path) else [f for f in path.iterdir() if f.suffix in suffixes]
    held = sum(file.stat().st_size for file in files)
    if values > held * (MOST_PER_BYTE if is_gguf(path) else 1):
        raise ModelError(
            f"cannot read the model at {path}: its configuration describes {values:,} values, and "
            f"its weights have only {held:,} bytes; take a complete checkpoint"
        )
