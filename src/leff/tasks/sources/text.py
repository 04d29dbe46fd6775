"""Plain text: one document (a paragraph) a line; headings stay, blank lines do not.

load_task("text", train="book.txt").train[0]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from leff.errors import DataError
from leff.tasks.columns import Table
from leff.tasks.sources import copies
from leff.tasks.sources.attributes import FILE, with_file
from leff.tasks.sources.copies import warn_of_overlap
from leff.tasks.sources.files import READERS, ending, read_lines
from leff.tasks.sources.rows import Rows, joined
from leff.tasks.task import Task


def load(files: Mapping[str, Sequence[Path]], *, hold_out: bool = True, seed: int = 0) -> Task:
    """Load text files by split.

    Without a validation file, a random tenth of the lines, drawn with `seed`, is held out; equal
    lines stay together.  Without `hold_out` nothing is.  Of several train files, the attribute
    ``file`` says which a line is of.  Without a train file the lines are on devices.  Raises
    DataError for what cannot be read.
    """
    rows = {split: _read(paths) for split, paths in files.items()}
    if "train" not in rows:
        empty = Rows("no train file", {"text": []}, [])
        return text_task({"train": empty, "validation": empty, **rows})
    if not hold_out:
        rows = {"validation": rows["train"].select([False] * len(rows["train"])), **rows}
    return text_task(_split(rows, seed))


def _read(paths: Sequence[Path]) -> Rows:
    for path in paths:
        if is_table(path):
            raise DataError(
                f"{path}: task text takes each line as it is; for a file with columns use task "
                "table, with columns = {text = ...}"
            )
    parts = [read_text(path) for path in paths]
    return parts[0] if len(parts) == 1 else joined(with_file(parts))


def is_table(path: Path) -> bool:
    """Return whether a file has columns, by its ending."""
    return ending(path) in READERS.keys() - {".txt"}


def read_text(path: Path) -> Rows:
    """Return the lines of a file that are not blank.  DataError if there is none."""
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
    taken = copies.hold_out(train, units["train"], seed)
    held = {"train": train.select([not t for t in taken]), "validation": train.select(taken)}
    return {**rows, **held}


def text_task(rows: Mapping[str, Rows]) -> Task:
    """Return the task of these splits."""
    sets = {split: Table({"text": part.text("text")}) for split, part in rows.items()}
    train = Table(rows["train"].columns)
    split_by = (FILE,) if FILE in train.columns else ()
    return Task("text", "text", train, sets["validation"], sets.get("test"), attributes=split_by)
