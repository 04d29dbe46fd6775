"""Labels as people write them: which are classes, which are scores, and what is refused.

names = class_names(train); ids = class_ids(validation, names)

A label is text without outer blanks, in Unicode's composed form (NFC).  Labels that are all whole
numbers count by their value: 1, "1" and 1.0 are one class.  docs/do/classify.md has all rules.
"""

import ast
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

from leff.errors import ConfigError, DataError, shown
from leff.tasks.sources.rows import Rows, listed

log = logging.getLogger("leff.tasks.load")
FEW = 5  # examples of a class; fewer are worth a warning
MANY = 20  # classes; more are doubted if a class has fewer than two rows on average
SEPARATORS = (";", ",", "|")
WRITTEN_LIST = re.compile(r"\[\s*(['\"]).*\1\s*\]", re.DOTALL)  # as pandas writes one to CSV
WHOLE = re.compile(r"[+-]?\d+")
BINS = 6


def plain(value: object) -> str:
    """Return a name as text: NFC, single blanks, none outside; whole floats without decimals."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(unicodedata.normalize("NFC", str(value)).split())


def are_scores(rows: Rows) -> bool:
    """Whether all labels are numbers, and at least one has a fraction.

    Raises DataError for a number that is not finite among numbers.
    """
    numbers = list(map(_number, rows.column("label")))
    if None in numbers:
        return False
    return any(not number.is_integer() for number in scores(rows))


def scores(rows: Rows) -> list[float]:
    """Return the labels as numbers.  Raises DataError for one that is not a finite number."""
    found: list[float] = []
    for i, value in enumerate(rows.column("label")):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise DataError(f"{rows.where(i)}: label {shown(value)} is not a finite number")
        found.append(number)
    return found


def bins(values: Sequence[float]) -> list[int]:
    """Return the bin, 0 to 5, of each score: equal widths between the least and the greatest."""
    if not values:
        return []
    low, width = min(values), (max(values) - min(values)) / BINS or 1.0
    return [min(int((value - low) / width), BINS - 1) for value in values]


def class_names(rows: Rows, sure: bool = False) -> tuple[str, ...]:
    """Return the classes of the train file: in order of value if all are whole, else of spelling.

    What is merged, and what looks wrong but may be right, is logged.  Raises DataError for a label
    that is empty or a list, for several labels in one, for fewer than two classes, and for more
    classes than half of the rows, unless the user is `sure` that these are classes.
    """
    values = rows.column("label")
    numeric = all(number is not None and number.is_integer() for number in map(_number, values))
    numeric = numeric and not any(map(_has_leading_zero, values))
    labels = [_class(rows, i, value, numeric) for i, value in enumerate(values)]
    counts = Counter(labels)
    _check_separated(rows, labels, counts)
    if len(counts) < 2:
        raise DataError(
            f"{rows.path}: all labels are {shown(labels[0])}, so there is nothing to learn; a "
            "classifier needs two classes"
        )
    _check_many(rows, counts, sure)
    _say_merged(rows, values, labels)
    _say_doubtful(rows, counts)
    return tuple(sorted(counts, key=int) if numeric else sorted(counts))


def given_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names that a user gives, in their order, as labels are read.

    Raises ConfigError for an empty name, one that is given twice, and a single one.
    """
    numeric = all(WHOLE.fullmatch(name.strip()) and not _has_leading_zero(name) for name in names)
    read = [str(int(name)) if numeric else plain(name) for name in names]
    repeated = next((name for name in read if read.count(name) > 1), None)
    if "" in read or repeated is not None:
        what = "an empty name" if repeated is None else f"{shown(repeated)} twice"
        raise ConfigError(f"data.labels has {what}; name each class once")
    if len(read) == 1:
        raise ConfigError(f"data.labels has only {shown(read[0])}; a classifier needs two classes")
    return tuple(read)


def class_ids(rows: Rows, names: Sequence[str], whose: str = "the classes") -> list[int]:
    """Return each label's place among `names`.  DataError for a label that is none of them.

    `whose` says in its message whose classes they are.
    """
    ids = {name: i for i, name in enumerate(names)}
    numeric = all(WHOLE.fullmatch(name) and not _has_leading_zero(name) for name in names)
    found: list[int] = []
    for i, value in enumerate(rows.column("label")):
        label = _class(rows, i, value, numeric)
        if label not in ids:
            raise _unknown(rows, i, label, names, whose)
        found.append(ids[label])
    return found


def several_names(rows: Rows) -> tuple[str, ...]:
    """Return the classes of a train file whose rows may have several, in order of spelling.

    Raises DataError for a cell that is no list of names, and for fewer than two classes.
    """
    counts = Counter(name for i in range(len(rows)) for name in _several(rows, i))
    if len(counts) < 2:
        found = f"only the class {shown(next(iter(counts)))}" if counts else "no class"
        raise DataError(f"{rows.path}: column 'labels' has {found}; a classifier needs two classes")
    _say_doubtful(rows, counts)
    return tuple(sorted(counts))


def several_ids(
    rows: Rows, names: Sequence[str], whose: str = "the classes"
) -> list[tuple[float, ...]]:
    """Return for each row a 1.0 for each of the classes that it has, else a 0.0, (K,).

    Raises DataError for a cell that is no list of names, or a name that is none of the classes.
    """
    found: list[tuple[float, ...]] = []
    for i in range(len(rows)):
        own = _several(rows, i)
        for name in own:
            if name not in names:
                raise _unknown(rows, i, name, names, whose)
        found.append(tuple(float(name in own) for name in names))
    return found


def rarest(several: Sequence[tuple[float, ...]], names: Sequence[str]) -> list[str]:
    """Return for each row the name of its class that the fewest rows have, or "none"."""
    counts = [sum(column) for column in zip(*several, strict=True)]
    order = sorted(range(len(names)), key=lambda k: (counts[k], k))
    return [next((names[k] for k in order if row[k]), "none") for row in several]


def _several(rows: Rows, i: int) -> list[str]:
    """Return the names in row i's column ``labels``: a list, or text with bars or semicolons."""
    value: Any = rows.column("labels")[i]
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())  # as JSON and pandas write a list of names
        except (ValueError, SyntaxError):
            raise DataError(f"{rows.where(i)}: labels {shown(value)} is no list") from None
    if isinstance(value, str) and not value.strip():
        raise rows.blank("labels", i)
    cells = cast("list[Any]", value if isinstance(value, list) else re.split("[|;]", str(value)))
    names = [plain(cell) for cell in cells if isinstance(cell, str | int | float)]
    if len(names) < len(cells) or "" in names:
        raise DataError(f"{rows.where(i)}: labels {shown(cells)} must be names of classes")
    return list(dict.fromkeys(names))


def _unknown(rows: Rows, i: int, label: str, names: Sequence[str], whose: str) -> DataError:
    return DataError(
        f"{rows.where(i)}: label {shown(label)} is none of {whose}: {listed(names)}; leave "
        "its rows out, or have the class added to the run's data.labels"
    )


def _number(value: object) -> float | None:
    """Return the number that a label is or spells, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_0 as ten
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _has_leading_zero(value: object) -> bool:
    """Return whether a label is a code such as 0101, not a number."""
    return isinstance(value, str) and re.match(r"\s*[+-]?0\d", value) is not None


def _class(rows: Rows, i: int, value: Any, numeric: bool) -> str:
    """Return the class that row i's label names."""
    if isinstance(value, list | dict) or (isinstance(value, str) and WRITTEN_LIST.match(value)):
        raise DataError(
            f"{rows.where(i)}: label {shown(cast(Any, value))} is a list; for several "
            "classes a row, map the column to labels"
        )
    if numeric and WHOLE.fullmatch(str(value).strip()):
        return str(int(value))  # exact, which a float is not
    number = _number(value) if numeric else None
    if number is not None and number.is_integer():
        return str(int(number))
    label = plain(value)
    if not label:
        raise DataError(f"{rows.where(i)}: no value in column 'label'")
    return label


def _check_separated(rows: Rows, labels: Sequence[str], counts: Counter[str]) -> None:
    """Raise DataError for a label such as "a;b" if both a and b are labels too."""
    for label in counts:
        for separator in SEPARATORS:
            parts = [part.strip() for part in label.split(separator)]
            if len(parts) > 1 and all(part in counts for part in parts):
                raise DataError(
                    f"{rows.where(labels.index(label))}: label {shown(label)} is several labels in "
                    "one; for several classes a row, map the column to labels; rename it if it "
                    "is a class of its own"
                )


def _check_many(rows: Rows, counts: Counter[str], sure: bool) -> None:
    if len(counts) <= MANY or 2 * len(counts) <= len(rows):
        return
    found = f"{rows.path}: column 'label' has {len(counts)} different values in {len(rows)} rows"
    if not sure:
        raise DataError(
            f"{found}, such as {listed(list(counts)[:3])}; map the column that has the classes, "
            "or set data.kind to regression or classification if this is it"
        )
    log.warning("%s", found)


def _say_merged(rows: Rows, values: Sequence[Any], labels: Sequence[str]) -> None:
    merged = {str(v): label for v, label in zip(values, labels, strict=True) if str(v) != label}
    if merged:
        pairs = listed([f"{shown(a)} as {shown(b)}" for a, b in merged.items()])
        log.warning(
            "%s: labels that differ only in blanks, Unicode form or decimals are one class; "
            "read: %s", rows.path, pairs,
        )  # fmt: skip


def _say_doubtful(rows: Rows, counts: Counter[str]) -> None:
    spellings: dict[str, list[str]] = {}
    for label in sorted(counts):
        spellings.setdefault(label.casefold(), []).append(label)
    for alike in spellings.values():
        if len(alike) > 1:
            log.warning(
                "%s: the labels %s differ only in case and stay apart; write them alike if they "
                "are one class", rows.path, listed(alike),
            )  # fmt: skip
    few = [f"{label} ({count})" for label, count in sorted(counts.items()) if count < FEW]
    if few:
        log.warning("%s: few examples of these classes: %s", rows.path, listed(few))
