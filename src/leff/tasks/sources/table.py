"""The user's own tables: JSONL, CSV, TSV or Parquet, with a mapping of columns.

    load_task("table", train="mine.csv", columns={"text": "review", "label": "stars"})

The kind follows from the columns.  ``input`` and ``target`` make generation.  ``text`` and
``label`` (and ``text_pair``) make classification, or regression if the labels have decimals.
``text`` alone makes plain text.  Classes are the distinct labels of the train file in sorted order.
Other columns of the train file are kept for partitioning.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from leff.errors import ConfigError, DataError, nearest
from leff.tasks.encode import Kind
from leff.tasks.sources.files import Rows, read_rows
from leff.tasks.task import Task, group_references, held_out

CANONICAL = ("input", "target", "references", "text", "text_pair", "label")
NEEDED: dict[str, tuple[str, ...]] = {
    "generation": ("input", "target"),
    "classification": ("text", "label"),
    "regression": ("text", "label"),
    "text": ("text",),
}
BINS = 6


def load(
    files: dict[str, Path], *, columns: Mapping[str, str], kind: str | None = None, seed: int = 0
) -> Task:
    """Load the tables of `files` (by split; ``train`` is required).

    Without a validation file, a random tenth of the rows, drawn with `seed`, is held out; rows
    with the same ``input`` stay together.  Raises ConfigError for a mapping or kind that makes no
    task, and DataError for a file, column, row or label that cannot be used.
    """
    _check(files, columns, kind)
    rows = {split: _read(path, columns) for split, path in files.items()}
    train = rows["train"]
    if not len(train):
        raise DataError(f"{train.path} has no rows")
    task_kind = _kind(train, kind)
    for name in NEEDED[task_kind]:
        train.column(name)
    if "validation" not in rows:
        units: Sequence[object] = range(len(train))
        if task_kind == "generation":
            units = train.column("input")
        if len(dict.fromkeys(units)) < 2:
            raise DataError(f"{train.path}: one example, so none can be held out for validation")
        taken = held_out(units, seed)
        rows["train"] = train.select([not t for t in taken])
        rows["validation"] = train.select(taken)
    attributes = {
        name: values
        for name, values in rows["train"].columns.items()
        if name not in CANONICAL and all(isinstance(v, str | int | bool) for v in values)
    }
    if task_kind == "generation":
        return _generation(rows, attributes)
    return _labelled(rows, task_kind, train, attributes)


def _check(files: dict[str, Path], columns: Mapping[str, str], kind: str | None) -> None:
    if "train" not in files:
        raise ConfigError("a table needs a train file; name one")
    for name in columns:
        if name not in CANONICAL:
            raise ConfigError(f"no column is called {name!r} here{nearest(name, CANONICAL)}")
    if kind is not None and kind not in get_args(Kind):
        raise ConfigError(f"no kind of task is called {kind!r}{nearest(kind, get_args(Kind))}")


def _read(path: Path, columns: Mapping[str, str]) -> Rows:
    """Read a table and rename its columns to ours; other columns keep their names."""
    rows = read_rows(path)
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


def _kind(rows: Rows, kind: str | None) -> Kind:
    present = set(rows.columns)
    if kind is None and {"input", "target"} <= present:
        kind = "generation"
    elif kind is None and {"text", "label"} <= present:
        kind = "regression" if _has_decimals(rows) else "classification"
    elif kind is None and "text" in present:
        kind = "text"
    for known in get_args(Kind):
        if kind == known:
            return known
    raise ConfigError(
        f"{rows.path}: the columns {', '.join(rows.columns)} make no task; map columns to "
        "input and target, to text and label, or to text"
    )


def _has_decimals(rows: Rows) -> bool:
    """Whether all labels are numbers, and some are written with decimals."""
    values = rows.column("label")
    try:
        for value in values:
            float(value)  # also takes nan, which `_scores` refuses
    except (TypeError, ValueError):
        return False
    return any(isinstance(v, float) or (isinstance(v, str) and not _whole(v)) for v in values)


def _whole(text: str) -> bool:
    return text.strip().lstrip("+-").isdigit()


def _generation(rows: dict[str, Rows], attributes: dict[str, list[Any]]) -> Task:
    from datasets import Dataset

    train = rows["train"]
    columns = {"input": train.filled("input"), "target": train.filled("target")}
    evaluation: dict[str, Dataset] = {}
    for split in rows.keys() - {"train"}:
        part = rows[split]
        inputs = part.filled("input")
        if "references" in part.columns:
            pairs = [
                (source, text) for i, source in enumerate(inputs) for text in _references(part, i)
            ]
            evaluation[split] = group_references([p[0] for p in pairs], [p[1] for p in pairs])
        else:
            evaluation[split] = group_references(inputs, part.filled("target"))
    return Task(
        "table",
        "generation",
        Dataset.from_dict(columns | attributes),
        evaluation["validation"],
        evaluation.get("test"),
        attributes=tuple(attributes),
    )


def _references(rows: Rows, i: int) -> list[str]:
    value: Any = rows.column("references")[i]
    if isinstance(value, list) and value and all(isinstance(t, str) for t in cast(Any, value)):
        return cast(list[str], value)
    raise DataError(f"{rows.where(i)}: references must be a list of texts, got {value!r}")


def _labelled(
    rows: dict[str, Rows], kind: Kind, train: Rows, attributes: dict[str, list[Any]]
) -> Task:
    from datasets import Dataset

    names = _names(train) if kind == "classification" else ()
    parts: dict[str, dict[str, list[Any]]] = {}
    for split, part in rows.items():
        parts[split] = {"text": part.filled("text")}
        if kind == "text":
            continue
        if "text_pair" in train.columns:
            parts[split]["text_pair"] = part.text("text_pair")
        parts[split]["label"] = _ids(part, names) if names else _scores(part)
    parts["train"] |= attributes
    split_by = tuple(attributes)
    if kind == "regression":
        parts["train"]["label_bin"] = _bins(parts["train"]["label"])
        split_by = ("label_bin", *split_by)
    elif kind == "classification":
        split_by = ("label", *split_by)
    sets = {split: Dataset.from_dict(columns) for split, columns in parts.items()}
    return Task("table", kind, sets["train"], sets["validation"], sets.get("test"), names, split_by)


def _names(rows: Rows) -> tuple[str, ...]:
    """Return class names in sorted order: all by value if all are numbers, else by spelling."""
    values = rows.column("label")
    for i, value in enumerate(values):
        if isinstance(value, float) or not isinstance(value, str | int):
            raise DataError(f"{rows.where(i)}: a class must be text or a whole number: {value!r}")
        if isinstance(value, str) and not value.strip():
            raise DataError(f"{rows.where(i)}: no value in column 'label'")
    distinct = {str(value) for value in values}
    if all(_whole(name) for name in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _ids(rows: Rows, names: Sequence[str]) -> list[int]:
    ids = {name: i for i, name in enumerate(names)}
    values = [str(value) for value in rows.column("label")]
    for i, value in enumerate(values):
        if value not in ids:
            raise DataError(
                f"{rows.where(i)}: label {value!r} is outside the range; the train file has "
                f"{', '.join(names)}"
            )
    return [ids[value] for value in values]


def _scores(rows: Rows) -> list[float]:
    scores: list[float] = []
    for i, value in enumerate(rows.column("label")):
        try:
            scores.append(float(value))
        except (TypeError, ValueError):
            scores.append(math.nan)
        if not math.isfinite(scores[-1]):
            raise DataError(f"{rows.where(i)}: label {value!r} is not a finite number")
    return scores


def _bins(scores: list[float]) -> list[int]:
    """Return the bin, 0 to 5, of each score: equal widths between the least and the greatest."""
    low, width = min(scores), (max(scores) - min(scores)) / BINS or 1.0
    return [min(int((score - low) / width), BINS - 1) for score in scores]
