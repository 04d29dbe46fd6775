"""Copies: rows with the same text, which must not be both trained on and measured on.

taken = hold_out(rows, units, seed)      # units: what makes two rows copies, such as (text, pair)
"""

import logging
from collections.abc import Hashable, Sequence

from leff.errors import DataError
from leff.seeds import derive_seed
from leff.tasks.sources.rows import Rows
from leff.tasks.task import held_out

log = logging.getLogger("leff.tasks.load")


def hold_out(
    rows: Rows, units: Sequence[Hashable], seed: int, classes: Sequence[object] = ()
) -> list[bool]:
    """Return for every row of the train data whether it is held out; a tenth of all texts is.

    Copies stay together.  Of several files, a tenth of each is held out, so that each keeps rows,
    and a text that several files have stays in training.  So do the texts of a class that would
    have none there; `classes` are the rows' own.  Raises DataError if nothing can be held out.
    """
    again = len(units) - len(set(units))
    if again == len(units) - 1:
        raise DataError(
            f"{rows.path}: {'all rows have the same text' if again else 'one example'}, so none "
            "can be held out for validation; name a validation file"
        )
    if again:
        log.info(
            "%s: %d of %d rows have the same text as another; copies stay together when a tenth "
            "of the texts is held out",
            rows.path,
            again,
            len(units),
        )
    taken = _of_each(rows, units, seed) if rows.origins else held_out(units, seed)
    left = {label for label, held in zip(classes, taken, strict=False) if not held}
    lost = {unit for unit, label in zip(units, classes, strict=False) if label not in left}
    taken = [held and unit not in lost for unit, held in zip(units, taken, strict=True)]
    if not any(taken):
        raise DataError(
            f"{rows.path}: {len(set(units))} different texts are too few to hold some out for "
            "validation; name a validation file"
        )
    return taken


def _of_each(rows: Rows, units: Sequence[Hashable], seed: int) -> list[bool]:
    """Hold out a tenth of the texts that only one file has, of each file."""
    only: dict[Hashable, int | None] = {}  # the only file with a unit, or None if there are more
    for unit, origin in zip(units, rows.origins, strict=True):
        only[unit] = id(origin) if only.get(unit, id(origin)) == id(origin) else None
    own: dict[int, list[Hashable]] = {}
    for unit, file in only.items():
        if file is not None:
            own.setdefault(file, []).append(unit)
    taken: set[Hashable] = set()
    for place, theirs in enumerate(own.values()):
        held = held_out(theirs, derive_seed(seed, "held out", place))
        taken |= {unit for unit, yes in zip(theirs, held, strict=True) if yes}
    return [unit in taken for unit in units]


def warn_of_overlap(train: Sequence[Hashable], other: Sequence[Hashable], rows: Rows) -> None:
    """Log how many rows of a validation or test file have a text of the train data."""
    known = set(train)
    both = [i for i, unit in enumerate(other) if unit in known]
    if both:
        log.warning(
            "%s: %d of %d texts are in the train data too, so figures will look better than they "
            "are (the first: %s)",
            rows.path,
            len(both),
            len(other),
            rows.where(both[0]),
        )


def warn_of_contradictions(units: Sequence[Hashable], labels: Sequence[object], rows: Rows) -> None:
    """Log how many texts have several labels."""
    first: dict[Hashable, object] = {}
    differing: dict[Hashable, int] = {}
    for i, (unit, label) in enumerate(zip(units, labels, strict=True)):
        if first.setdefault(unit, label) != label:
            differing.setdefault(unit, i)
    if differing:
        log.warning(
            "%s: texts with more than one label: %d (the first: %s)",
            rows.path,
            len(differing),
            rows.where(next(iter(differing.values()))),
        )
