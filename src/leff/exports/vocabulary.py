"""A tokenizer's vocabulary as GGUF has it.

    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size)
    vocabulary.add_to(writer)

llama.cpp has two kinds: byte-level pairs of GPT-2's kind, with merges, and pieces of SentencePiece,
with scores.  It knows by name how texts are split before pairs are merged.  A tokenizer that splits
in another way is refused: llama.cpp would give the model other tokens.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType

from leff.errors import ConfigError

GPT2 = "ByteLevel"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: dict[tuple[str, ...], str] = {  # how texts are split: llama.cpp's name
    (GPT2,): "gpt-2",
    ("Digits", GPT2): "smollm",
    (LLAMA3,): "llama-bpe",
    (LLAMA3.replace("{1,3}", ""),): "qwen2",
}
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, with what llama.cpp has to know of them."""

    model: str  # "gpt2" or "llama"
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    special: dict[str, int]  # ids by use: bos, eos, unk, pad
    adds_bos: bool  # whether the tokenizer begins each text with the beginning token
    split: str = "default"
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    adds_space: bool | None = None  # whether a text gets a space before it

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.merges:
            writer.add_token_merges(list(self.merges))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        for use, number in self.special.items():
            getattr(writer, f"add_{use}_token_id")(number)
        writer.add_add_bos_token(self.adds_bos)
        if self.adds_space is not None:
            writer.add_add_space_prefix(self.adds_space)


def vocabulary_of(tokenizer: Any, size: int) -> Vocabulary:
    """Return a tokenizer's vocabulary, with unused tokens up to `size`, the model's number.

    Raises ConfigError for a tokenizer that llama.cpp does not have.
    """
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    model = values["model"]
    if model["type"] != "BPE":
        raise _unknown(f"it is a {model['type']} model")
    pieces = bool(model.get("byte_fallback"))
    special = {
        use: number
        for use in ("bos", "eos", "unk", "pad")
        if (number := getattr(tokenizer, f"{use}_token_id")) is not None
    }
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {entry["id"]: entry["special"] for entry in values["added_tokens"]}
    numbers = range(size)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    begins = tokenizer("a").input_ids[:1] == [special.get("bos")]
    tokens = tuple(names.get(number, f"[PAD{number}]") for number in numbers)
    types = tuple(_type_of(number, names, added, pieces, special) for number in numbers)
    if not pieces:
        split = _split_of(values)
        if not merges:
            raise _unknown("it merges no pairs, and llama.cpp reads no such file")
        return Vocabulary("gpt2", tokens, types, special, begins, split, tuple(merges))
    scores = _scores(merges)
    return Vocabulary(
        "llama",
        tokens,
        types,
        special,
        begins,
        scores=tuple(scores.get(token, 0.0) for token in tokens),
        adds_space=_adds_space(values),
    )


def _type_of(
    number: int,
    names: dict[int, str],
    added: dict[int, bool],
    pieces: bool,
    special: dict[str, int],
) -> TokenType:
    if number not in names:
        return TokenType.UNUSED
    if pieces and number == special.get("unk"):
        return TokenType.UNKNOWN
    if number in added:
        return TokenType.CONTROL if added[number] else TokenType.USER_DEFINED
    return TokenType.BYTE if pieces and BYTE.fullmatch(names[number]) else TokenType.NORMAL


def _split_of(values: dict[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a byte-level tokenizer splits texts."""
    normalizer = values["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _unknown(f"it changes texts before it splits them ({normalizer['type']})")
    splitter: dict[str, Any] = values["pre_tokenizer"] or {}
    parts = tuple(filter(None, map(_rule, splitter.get("pretokenizers", [splitter]))))
    if parts not in SPLITS:
        raise _unknown("it splits texts by rules of its own")
    return SPLITS[parts]


def _rule(part: dict[str, Any]) -> str | None:
    """Return what stands for a step of splitting; None for one that splits nothing."""
    kind = part.get("type")
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return GPT2 if part["use_regex"] else None
    if kind == "Digits" and part["individual_digits"]:
        return "Digits"
    if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return str(part["pattern"].get("Regex"))
    return f"{kind} with other options"


def _scores(merges: list[str]) -> dict[str, float]:
    """Return the score of every piece that merges make: the earlier it is made, the higher.

    SentencePiece joins the two neighbours whose piece has the highest score, as merges in their
    order do.
    """
    scores: dict[str, float] = {}
    for rank, merge in enumerate(merges, 1):
        scores.setdefault(merge.replace(" ", "", 1), -float(rank))
    return scores


def _adds_space(values: dict[str, Any]) -> bool:
    """Return whether a text of pieces gets a space before it."""
    splitter: dict[str, Any] = values["pre_tokenizer"] or {}
    normalizer: dict[str, Any] = values["normalizer"] or {}
    if splitter.get("type") == "Metaspace":
        return splitter.get("prepend_scheme", "always") != "never"
    steps = normalizer.get("normalizers", [normalizer])
    return any(each.get("type") == "Prepend" for each in steps)


def _unknown(reason: str) -> ConfigError:
    return ConfigError(f"the tokenizer cannot be exported to GGUF: {reason}; use --merged")
