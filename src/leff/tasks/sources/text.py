"""Plain text: one document (a paragraph) a line; headings stay, blank lines do not.

    load_task("text", train="book.txt").train[0]

Without the user's own file this is WikiText-103, in its tokenised form.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from leff.errors import ConfigError, DataError
from leff.tasks.sources.attributes import FILE, with_file
from leff.tasks.sources.copies import hold_out, warn_of_overlap
from leff.tasks.sources.files import READERS, ending, locate, read_lines
from leff.tasks.sources.rows import Rows, joined
from leff.tasks.task import Task

_GZ = (".txt", ".txt.gz", ".tokens")
FILES = {
    "train": tuple(f"{s}{e}" for s in ("train", "wiki.train", "train_slice") for e in _GZ),
    "validation": tuple(f"{s}{e}" for s in ("valid", "wiki.valid", "validation") for e in _GZ),
    "test": tuple(f"{s}{e}" for s in ("test", "wiki.test") for e in _GZ),
}
HUB = ("Salesforce/wikitext", "wikitext-103-v1")


def load(files: Mapping[str, Sequence[Path]], folder: Path | None = None, *, seed: int = 0) -> Task:
    """Load the user's text `files` by split, or WikiText-103 from a folder or the hub.

    Without a validation file, a random tenth of the lines, drawn with `seed`, is held out; equal
    lines stay together.  Of several train files, the attribute ``file`` says which a line is of.
    """
    if files and "train" not in files:
        raise ConfigError("a text task needs a train file; name one")
    if files:
        return _task(_split({split: _read(paths) for split, paths in files.items()}, seed))
    public = locate("text", folder, ("wikitext103", "wikitext-103", "."), FILES)
    if not public:
        return _from_hub()
    return _task({split: _lines(path) for split, path in public.items()})


def _read(paths: Sequence[Path]) -> Rows:
    for path in paths:
        if ending(path) in READERS.keys() - {".txt"}:
            raise DataError(
                f"{path}: task text takes each line as it is; for a file with columns use task "
                "table, with columns = {text = ...}"
            )
    parts = [_lines(path) for path in paths]
    return parts[0] if len(parts) == 1 else joined(with_file(parts))


def _lines(path: Path) -> Rows:
    texts, numbers = read_lines(path)
    if not texts:
        raise DataError(f"{path} holds no text")
    return Rows(path, {"text": texts}, numbers)


def _split(rows: dict[str, Rows], seed: int) -> dict[str, Rows]:
    """Return the rows with a validation split; log what repeats."""
    units = {split: [line.strip() for line in part.text("text")] for split, part in rows.items()}
    train = rows["train"]
    for split in sorted(rows.keys() - {"train"}):
        warn_of_overlap(units["train"], units[split], rows[split])
    if "validation" in rows:
        return rows
    taken = hold_out(train, units["train"], seed)
    held = {"train": train.select([not t for t in taken]), "validation": train.select(taken)}
    return {**rows, **held}


def _task(rows: dict[str, Rows]) -> Task:
    from datasets import Dataset

    split_by = (FILE,) if FILE in rows["train"].columns else ()
    sets = {split: Dataset.from_dict({"text": part.text("text")}) for split, part in rows.items()}
    sets["train"] = Dataset.from_dict(rows["train"].columns)
    return Task(
        "text", "text", sets["train"], sets["validation"], sets.get("test"), attributes=split_by
    )


def _from_hub() -> Task:
    from leff.tasks.sources.hub import fetch

    def not_blank(batch: Mapping[str, Sequence[str]]) -> list[bool]:
        return [bool(text.strip()) for text in batch["text"]]

    splits = {name: part.filter(not_blank, batched=True) for name, part in fetch(*HUB).items()}
    return Task("text", "text", splits["train"], splits["validation"], splits.get("test"))
