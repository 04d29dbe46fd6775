"""Plain text: one document (a paragraph) a line; headings stay, blank lines do not.

    load_task("text", train="book.txt").train[0]

Without the user's own file this is WikiText-103, in its tokenised form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leff.errors import ConfigError, DataError
from leff.tasks.sources.files import locate, read_lines
from leff.tasks.task import Task, held_out

if TYPE_CHECKING:
    from datasets import Dataset

_GZ = (".txt", ".txt.gz", ".tokens")
FILES = {
    "train": tuple(f"{s}{e}" for s in ("train", "wiki.train", "train_slice") for e in _GZ),
    "validation": tuple(f"{s}{e}" for s in ("valid", "wiki.valid", "validation") for e in _GZ),
    "test": tuple(f"{s}{e}" for s in ("test", "wiki.test") for e in _GZ),
}
HUB = ("Salesforce/wikitext", "wikitext-103-v1")


def load(files: dict[str, Path], folder: Path | None = None, *, seed: int = 0) -> Task:
    """Load the user's text `files` by split, or WikiText-103 from a folder or the hub.

    Without a validation file, a random tenth of the lines, drawn with `seed`, is held out.
    """
    if files and "train" not in files:
        raise ConfigError("a text task needs a train file; name one")
    files = files or locate("text", folder, ("wikitext103", "wikitext-103", "."), FILES) or {}
    if not files:
        return _from_hub()
    texts = {split: read_lines(path)[0] for split, path in files.items()}
    for split, path in files.items():
        if not texts[split]:
            raise DataError(f"{path} holds no text")
    if "validation" not in texts:
        if len(texts["train"]) < 2:
            raise DataError(f"{files['train']} has one line: none can be held out for validation")
        taken = held_out(range(len(texts["train"])), seed)
        lines = list(zip(texts["train"], taken, strict=True))
        texts["train"] = [line for line, held in lines if not held]
        texts["validation"] = [line for line, held in lines if held]
    parts = {split: _dataset(lines) for split, lines in texts.items()}
    return Task("text", "text", parts["train"], parts["validation"], parts.get("test"))


def _dataset(lines: list[str]) -> "Dataset":
    from datasets import Dataset

    return Dataset.from_dict({"text": lines})


def _from_hub() -> Task:
    from leff.tasks.sources.hub import fetch

    def not_blank(batch: Mapping[str, Sequence[str]]) -> list[bool]:
        return [bool(text.strip()) for text in batch["text"]]

    splits = {name: part.filter(not_blank, batched=True) for name, part in fetch(*HUB).items()}
    return Task("text", "text", splits["train"], splits["validation"], splits.get("test"))
