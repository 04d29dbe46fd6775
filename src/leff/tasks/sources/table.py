"""The user's own tables: JSON, CSV, TSV or Parquet, with a mapping of columns.

    load_task("table", train="mine.csv", columns={"text": "review", "label": "stars"})

The kind follows from the columns.  ``input`` and ``target`` make generation.  Those of
conversations (`conversations.FORMS`) make chat.  ``text`` and ``label`` (and ``text_pair``) make
classification, or regression if a label has a fraction.  With ``labels`` a row may have several
classes.  ``text`` alone makes plain text.  Classes are the distinct labels of the train file in
sorted order.  Other columns of the train file are kept for partitioning.
"""

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from leff.errors import ConfigError, DataError, nearest, shown
from leff.tasks.columns import Table
from leff.tasks.encode import Kind
from leff.tasks.sources import copies, labels
from leff.tasks.sources.attributes import attributes_of, with_file, with_own
from leff.tasks.sources.conversations import COLUMNS, FORMS, chat_columns, conversations
from leff.tasks.sources.copies import warn_of_contradictions, warn_of_overlap
from leff.tasks.sources.files import read_rows
from leff.tasks.sources.rows import Rows, joined, listed
from leff.tasks.task import Task, asked, group_references

log = logging.getLogger("leff.tasks.load")

CANONICAL = ("input", "target", "references", "text", "text_pair", "label", "labels", *COLUMNS)
NEEDED: dict[str, tuple[str, ...]] = {
    "generation": ("input", "target"),
    "classification": ("text", "label"),
    "multilabel": ("text", "labels"),
    "regression": ("text", "label"),
    "text": ("text",),
    "chat": (),  # any of `conversations.FORMS`
}
CLASSED = ("classification", "multilabel")
LABELLED = (*CLASSED, "regression")
UNPAIRED = ("generation", "chat")
BIN = "label_bin"  # of a regression, by which examples can be divided
RAREST = "rarest_label"  # the same if a row may have several classes


def load(
    files: Mapping[str, Sequence[Path]],
    *,
    columns: Mapping[str, str],
    kind: str | None = None,
    classes: Sequence[str] = (),
    labelled: bool = True,
    hold_out: bool = True,
    group: str = "",
    seed: int = 0,
) -> Task:
    """Load the tables of `files`, by split.

    Without a validation file, a random tenth of the rows, drawn with `seed`, is held out; copies
    stay together.  Without `hold_out` nothing is, and the validation split is empty.  `classes`
    are names of labels that the user gives, in order.  A task without a train file, whose examples
    are on devices, needs its `kind`, and a classifier its `classes`.  Without `labelled`, labels
    are not looked at.  With `group` "input", validation and test rows of generation that have the
    same input are one example, with several references.

    Raises ConfigError for a mapping, kind or class that makes no task, and DataError for a file,
    column, row or label that cannot be used.
    """
    names = labels.given_names(classes)
    _check(files, columns, kind, names)
    if "train" not in files:
        return _without_train(files, columns, _known_kind(kind or "classification"), names)
    rows = {split: _read(paths, columns) for split, paths in files.items()}
    train = rows["train"]
    if not len(train):
        raise DataError(f"{train.path} has no rows")
    task_kind = _kind(train, columns, kind, labelled, names)
    for name in NEEDED[task_kind]:
        train.column(name)
    if task_kind == "classification" and not names:
        names = labels.class_names(train, kind is not None)
    if task_kind == "multilabel" and not names:
        names = labels.several_names(train)
    if task_kind in LABELLED:
        rows = {split: _with_labels(part, task_kind, names) for split, part in rows.items()}
    pairs = "text_pair" in train.columns and not (task_kind == "text" and labelled)
    if not hold_out:
        rows = {"validation": rows["train"].select([False] * len(train)), **rows}
    if task_kind == "chat":
        log.info("%s: conversations, read as %s", train.path, FORMS[chat_columns(train.columns)])
        rows = {split: with_messages(part) for split, part in rows.items()}
    return _task(_split(rows, task_kind, pairs, seed), task_kind, pairs, names, group)


def load_test(
    path: Path,
    kind: Kind,
    *,
    columns: Mapping[str, str],
    names: tuple[str, ...] = (),
    group: str = "",
) -> Task:
    """Load a table to measure a trained model on; all its rows are the test split.

    `names` are the model's classes, in its order.  Raises DataError for a file, column, row or
    label that cannot be used.
    """
    rows = read_kind([path], kind, columns, names)
    splits = {split: rows for split in ("train", "validation", "test")}  # noqa: C420  any key
    pairs = kind not in UNPAIRED and "text_pair" in rows.columns
    return _task(splits, kind, pairs, names, group)


def read_kind(
    paths: Sequence[Path],
    kind: Kind,
    columns: Mapping[str, str],
    names: Sequence[str] = (),
    whose: str = "the classes",
) -> Rows:
    """Return the rows of tables whose kind and classes are known, with their labels checked.

    Labels are class ids, places in `names`, for several classes a 1.0 or 0.0 for each of the
    names, or scores.  `whose` says in a message whose classes
    they are.  Raises DataError for a file, column, row or label that cannot be used.
    """
    rows = _read(paths, columns)
    if not len(rows):
        raise DataError(f"{rows.path} has no rows")
    if kind == "chat":
        return with_messages(rows)
    for name in NEEDED[kind]:
        if name != "target" or "references" not in rows.columns:
            rows.column(name)
    return _with_labels(rows, kind, names, whose) if kind in LABELLED else rows


def with_messages(rows: Rows) -> Rows:
    """Return rows of conversations with these in the column ``messages``, checked."""
    other = {name: values for name, values in rows.columns.items() if name not in COLUMNS}
    columns = {**other, "messages": conversations(rows)}
    return Rows(rows.path, columns, rows.lines, rows.unit, rows.origins)


def training_table(rows: Rows, kind: Kind, pairs: bool) -> Table:
    """Return the canonical columns of rows to train on.  Raises DataError for a blank text."""
    if kind == "generation":
        return Table({"input": rows.filled("input"), "target": rows.filled("target")})
    if kind == "chat":
        return Table({"messages": rows.column("messages")})
    kept = ["text_pair"] if pairs else []
    kept += ["label"] if kind in LABELLED else []
    return Table({"text": rows.filled("text"), **{name: rows.column(name) for name in kept}})


def evaluation_table(rows: Rows, kind: Kind, pairs: bool, group: str = "") -> Table:
    """Return the canonical columns of rows to measure on.

    With `group` "input" there is one row for each distinct input, with all its references.
    """
    if kind != "generation":
        return training_table(rows, kind, pairs)
    inputs = rows.filled("input")
    if "references" in rows.columns:
        references = [_references(rows, i) for i in range(len(rows))]
    else:
        references = [[target] for target in rows.filled("target")]
    if not group:
        return Table({"input": inputs, "references": references})
    each = [(source, text) for source, own in zip(inputs, references, strict=True) for text in own]
    return group_references([source for source, _ in each], [text for _, text in each])


def read_texts(
    path: Path, columns: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
    """Return ``text`` and, if there is one, ``text_pair`` of a table, and its columns as they are.

    Raises DataError for a file, column or row that cannot be used.
    """
    own = {name: theirs for name, theirs in columns.items() if name in ("text", "text_pair")}
    read = read_rows(path)
    rows = _renamed(read, own)
    texts = {"text": rows.filled("text")}
    if not texts["text"]:
        raise DataError(f"{path} has no rows")
    if "text_pair" in rows.columns:
        texts["text_pair"] = rows.text("text_pair")
    return texts, read.columns


def _check(
    files: Mapping[str, Sequence[Path]],
    columns: Mapping[str, str],
    kind: str | None,
    names: Sequence[str],
) -> None:
    if "train" not in files and kind is None and not names:
        raise ConfigError(
            "a table needs a train file; name one, or the kind (data.kind) if devices have the rows"
        )
    for name in columns:
        if name not in CANONICAL:
            raise ConfigError(f"no column is called {name!r} here{nearest(name, CANONICAL)}")
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"no kind of task is called {kind!r}{nearest(kind, get_args(Kind))}")
    if names and kind is not None and kind not in CLASSED:
        raise ConfigError(f"data.labels name classes, and the kind is {kind!r}; leave them out")


def _without_train(
    files: Mapping[str, Sequence[Path]],
    columns: Mapping[str, str],
    kind: Kind,
    names: tuple[str, ...],
) -> Task:
    """Return a task whose training rows are on devices; a validation file need not be there."""
    if kind in CLASSED and not names:
        raise ConfigError("without a train file nobody knows the classes; name them in data.labels")
    read = {split: read_kind(paths, kind, columns, names) for split, paths in files.items()}
    pairs = kind in LABELLED and any("text_pair" in part.columns for part in read.values())
    empty = Rows("no train file", {name: list[Any]() for name in CANONICAL}, [])
    return _task({"train": empty, "validation": empty, **read}, kind, pairs, names)


def _read(paths: Sequence[Path], columns: Mapping[str, str]) -> Rows:
    """Read a split's files; what one has of our columns, all must have."""
    parts = [_renamed(read_rows(path), columns) for path in paths]
    if len(parts) == 1:
        return parts[0]
    for name in CANONICAL:
        if any(name in part.columns for part in parts):
            for part in parts:
                part.column(name)
    return joined(with_file(parts))


def _renamed(rows: Rows, columns: Mapping[str, str]) -> Rows:
    """Rename the columns of a table to ours; other columns keep their names."""
    theirs = {name: ours for ours, name in columns.items()}
    for ours, name in columns.items():
        if ours == "references" or (ours == "target" and "references" in columns):
            continue  # one of the two is enough, and which depends on the split
        rows.column(name)
    renamed = {
        theirs.get(name, name): values
        for name, values in rows.columns.items()
        if name in theirs or name not in columns
    }
    return Rows(rows.path, renamed, rows.lines, rows.unit)


def _kind(
    rows: Rows,
    columns: Mapping[str, str],
    kind: str | None,
    labelled: bool,
    classes: Sequence[str],
) -> Kind:
    """Return the kind that is given, or that the mapped columns make, or that all columns make."""
    for names in () if kind else (set(columns), set(rows.columns)):
        if {"input", "target"} <= names and not classes:
            kind = "generation"
        elif chat_columns(names) and not classes:
            kind = "chat"
        elif {"text", "label"} <= names and labelled:
            scored = not classes and labels.are_scores(rows)
            kind = "regression" if scored else "classification"
        elif {"text", "labels"} <= names and labelled:
            kind = "multilabel"
        if kind:
            break
    if kind is None and classes:
        kind = "classification"
    if kind is None and "text" in rows.columns:
        kind = "text"
    if kind is None:
        raise ConfigError(
            f"{rows.path}: the columns {listed(rows.columns)} make no task; map columns to "
            "input and target, to text and label (or labels), to messages, to instruction and "
            "output, or to text"
        )
    return _known_kind(kind)


def _known_kind(kind: str | None) -> Kind:
    return next(known for known in get_args(Kind) if known == kind)


def _with_labels(rows: Rows, kind: Kind, names: Sequence[str], whose: str = "the classes") -> Rows:
    """Return the rows with a column ``label``, as `read_kind` describes it."""
    values: Sequence[Any]
    if kind == "multilabel":
        values = labels.several_ids(rows, names, whose)
    elif kind == "classification":
        values = labels.class_ids(rows, names, whose)
    else:
        values = labels.scores(rows)
    return Rows(rows.path, {**rows.columns, "label": values}, rows.lines, rows.unit, rows.origins)


def _split(rows: dict[str, Rows], kind: Kind, pairs: bool, seed: int) -> dict[str, Rows]:
    """Return the rows with a validation split; log what repeats and what contradicts itself."""
    train = rows["train"]
    units = {split: _units(part, kind, pairs) for split, part in rows.items()}
    if kind in LABELLED:
        warn_of_contradictions(units["train"], train.column("label"), train)
    for split in sorted(rows.keys() - {"train"}):
        warn_of_overlap(units["train"], units[split], rows[split])
    if "validation" in rows:
        return rows
    classes = train.column("label") if kind == "classification" else ()
    taken = copies.hold_out(train, units["train"], seed, classes)
    return {
        **rows,
        "train": train.select([not held for held in taken]),
        "validation": train.select(taken),
    }


def _units(rows: Rows, kind: Kind, pairs: bool) -> list[Hashable]:
    """Return what makes two rows copies: the input, or the text with its pair; blanks aside.

    Of a conversation it is all but the last answer.
    """
    if kind == "chat":
        return [asked(talk) for talk in rows.column("messages")]
    texts = [text.strip() for text in rows.filled("input" if kind == "generation" else "text")]
    if kind == "generation" or not pairs:
        return list(texts)
    return list(zip(texts, (pair.strip() for pair in rows.text("text_pair")), strict=True))


def _task(
    rows: dict[str, Rows], kind: Kind, pairs: bool, names: tuple[str, ...], group: str = ""
) -> Task:
    """Return the task of these splits."""
    train = rows["train"]
    if kind == "regression":
        train = with_own(train, BIN, labels.bins(train.column("label")))
    if kind == "multilabel":
        train = with_own(train, RAREST, labels.rarest(train.column("label"), names))
    attributes, unusable = attributes_of(train, CANONICAL)
    own = {"classification": ["label"], "multilabel": [RAREST], "regression": [BIN]}
    split_by = own.get(kind, [])
    split_by += [name for name in attributes if name not in split_by]
    columns = {**training_table(train, kind, pairs).columns, **attributes}
    measured = {
        split: evaluation_table(part, kind, pairs, group)
        for split, part in rows.items()
        if split != "train"
    }
    return Task(
        "table",
        kind,
        Table(columns),
        measured["validation"],
        measured.get("test"),
        names,
        tuple(split_by),
        unusable=unusable,
    )


def _references(rows: Rows, i: int) -> list[str]:
    value: Any = rows.column("references")[i]
    if isinstance(value, list) and value and all(isinstance(t, str) for t in cast(Any, value)):
        return cast(list[str], value)
    raise DataError(
        f"{rows.where(i)}: references must be a list of texts, got {shown(cast(Any, value))}"
    )
