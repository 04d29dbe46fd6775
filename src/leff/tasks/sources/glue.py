"""The nine GLUE tasks (Wang et al. 2019), with the usual integer coding of labels.

    python -c "from leff.tasks.load import load_task; print(load_task('rte', 'data').labels)"

`validation` is the official development set (MNLI: the matched one).  GLUE's test sets have no
public labels, so `test` is None, except for MRPC, whose original release has labels.  If a QQP
folder has ``heldout.parquet`` in place of the development set, that is used, with a warning in the
log.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leff.errors import DataError
from leff.tasks.columns import Table
from leff.tasks.encode import Kind
from leff.tasks.sources.files import locate, read_rows, read_tsv
from leff.tasks.sources.rows import Rows
from leff.tasks.task import Task

log = logging.getLogger("leff.tasks.load")
HUB = "nyu-mll/glue"
STSB_RANGE = (0.0, 5.0)
_ENTAILMENT = ("entailment", "not_entailment")


@dataclass(frozen=True)
class Spec:
    """One task: label names by id, its published folder, and its columns.

    `columns` are the columns of our Parquet copy and of the hub.  `published` are those of the
    original TSV.  Both list the sentence, the second sentence if there is one, and the label.
    `extra` columns are kept if present.
    """

    labels: tuple[str, ...]
    original: str
    columns: tuple[str, ...]
    published: tuple[str, ...]
    header: tuple[str, ...] | None = None  # of a TSV that comes without
    extra: tuple[str, ...] = ()


_PAIR = ("sentence1", "sentence2", "label")
SPECS = {
    "cola": Spec(
        ("unacceptable", "acceptable"),
        "CoLA",
        ("sentence", "label"),
        ("sentence", "label"),
        header=("source", "label", "mark", "sentence"),
        extra=("source",),
    ),
    "sst2": Spec(("negative", "positive"), "SST-2", ("sentence", "label"), ("sentence", "label")),
    "mrpc": Spec(
        ("not_equivalent", "equivalent"), "MRPC", _PAIR, ("#1 String", "#2 String", "Quality")
    ),
    "stsb": Spec((), "STS-B", _PAIR, ("sentence1", "sentence2", "score"), extra=("genre",)),
    "qqp": Spec(
        ("not_duplicate", "duplicate"),
        "QQP",
        ("question1", "question2", "label"),
        ("question1", "question2", "is_duplicate"),
    ),
    "mnli": Spec(
        ("entailment", "neutral", "contradiction"),
        "MNLI",
        ("premise", "hypothesis", "label"),
        ("sentence1", "sentence2", "gold_label"),
        extra=("genre",),
    ),
    "qnli": Spec(
        _ENTAILMENT, "QNLI", ("question", "sentence", "label"), ("question", "sentence", "label")
    ),
    "rte": Spec(_ENTAILMENT, "RTE", _PAIR, _PAIR),
    "wnli": Spec(("not_entailment", "entailment"), "WNLI", _PAIR, _PAIR),
}
FILES = {
    "train": ("train.parquet", "train.tsv"),
    "validation": ("dev.parquet", "dev.tsv"),
}
SPECIAL_FILES = {
    "qqp": {**FILES, "validation": ("dev.parquet", "dev.tsv", "heldout.parquet")},
    "mnli": {
        "train": ("train.parquet", "train.tsv"),
        "validation": ("dev_matched.parquet", "dev_matched.tsv"),
    },
    "mrpc": {
        "train": ("train.parquet", "train.tsv", "msr_paraphrase_train.txt"),
        "validation": ("dev.parquet", "dev.tsv", "dev_ids.tsv"),
        "test": ("test.parquet", "msr_paraphrase_test.txt"),
    },
}


def load(name: str, folder: Path | None = None) -> Task:
    """Load a GLUE task from a folder (Parquet copy or the original TSV files) or from the hub."""
    spec = SPECS[name]
    inside = [f"glue/{name}", f"glue/{spec.original}", name, spec.original, "."]
    if folder and _is_another(name, folder):
        inside.remove(".")
    files = locate(name, folder, inside, SPECIAL_FILES.get(name, FILES))
    rows = _from_files(name, files) if files else _from_hub(name)
    parts = {split: _canonical(part, name) for split, part in rows.items()}
    extra = tuple(c for c in spec.extra if c in parts["train"].columns)
    kind: Kind = "classification" if spec.labels else "regression"
    attributes = ("label" if spec.labels else "label_bin", *extra)
    return Task(
        name,
        kind,
        parts["train"],
        parts["validation"],
        parts.get("test"),
        spec.labels,
        attributes,
    )


def score_bin(score: float) -> int:
    """Return the bin, 0 to 5, of an STS-B score: the nearest of its six verbal grades."""
    return math.floor(score + 0.5)


def _is_another(name: str, folder: Path) -> bool:
    """Whether the folder has the name of another task, whose columns may look the same."""
    called = folder.resolve().name.lower().replace("-", "")
    return called in SPECS and called != name


def _from_files(name: str, files: dict[str, Path]) -> dict[str, Rows]:
    if files["validation"].name == "heldout.parquet":
        log.warning("qqp: heldout.parquet stands in for the official development set")
    header = SPECS[name].header
    rows = {
        split: read_rows(path)
        if path.suffix == ".parquet"
        else read_tsv(path, header, drop_short=name == "qqp")
        for split, path in files.items()
        if path.name != "dev_ids.tsv"
    }
    if "validation" not in rows:  # MRPC's own release: GLUE's development set is a list of ids
        identifiers = read_tsv(files["validation"], ("#1 ID", "#2 ID"))
        listed = set(zip(*identifiers.columns.values(), strict=True))
        train = rows["train"]
        pairs = zip(train.column("#1 ID"), train.column("#2 ID"), strict=True)
        held = [pair in listed for pair in pairs]
        rows["train"] = train.select([not h for h in held])
        rows["validation"] = train.select(held)
    return rows


def _from_hub(name: str) -> dict[str, Rows]:
    from leff.tasks.sources.hub import fetch, hub_rows

    splits = fetch(HUB, name)
    development = "validation_matched" if name == "mnli" else "validation"
    rows = {
        "train": hub_rows(splits, "train", HUB),
        "validation": hub_rows(splits, development, HUB),
    }
    if name == "mrpc":
        rows["test"] = hub_rows(splits, "test", HUB)
    return rows


def _canonical(rows: Rows, name: str) -> Table:
    """Rename the columns, check every label, and keep the columns to partition by."""
    spec = SPECS[name]
    published = all(c in rows.columns for c in spec.published)
    *texts, label = spec.published if published else spec.columns
    columns: dict[str, list[Any]] = {
        ours: rows.text(theirs) for ours, theirs in zip(("text", "text_pair"), texts, strict=False)
    }
    columns["label"] = _labels(rows, label, spec.labels)
    if not spec.labels:
        columns["label_bin"] = [score_bin(score) for score in columns["label"]]
    columns |= {c: rows.column(c) for c in spec.extra if c in rows.columns}
    return Table(columns)


def _labels(rows: Rows, column: str, names: tuple[str, ...]) -> list[float]:
    """Return ids from numbers, digits or names of labels; without names, return scores."""
    ids = {str(i): i for i in range(len(names))} | {name: i for i, name in enumerate(names)}
    low, high = STSB_RANGE
    labels: list[float] = []
    for i, value in enumerate(rows.column(column)):
        try:
            label = ids[str(value)] if names else float(value)
        except (KeyError, ValueError):
            label = None
        if label is None or not (names or low <= label <= high):
            allowed = ", ".join(ids) if names else f"{low:g} to {high:g}"
            raise DataError(
                f"{rows.where(i)}: {column} {value!r} is outside the range; allowed: {allowed}"
            )
        labels.append(label)
    return labels
