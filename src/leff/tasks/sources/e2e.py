"""E2E NLG Challenge (Novikova, Dusek, Rieser 2017): restaurant descriptions from slots.

    python -c "from leff.tasks.load import load_task; print(load_task('e2e', 'data').train[0])"

This is the challenge's release (42,061 / 4,672 / 4,693 texts), not the cleaned one.  Every slot is
a column of `train`, with "none" if the meaning representation lacks the slot.
"""

import re
from pathlib import Path

from leff.errors import DataError
from leff.tasks.columns import Table
from leff.tasks.sources.files import locate, read_rows
from leff.tasks.sources.rows import Rows
from leff.tasks.task import Task, group_references

SLOTS = (
    "name",
    "eatType",
    "food",
    "priceRange",
    "customer rating",
    "area",
    "familyFriendly",
    "near",
)
FILES = {
    "train": ("train.parquet", "trainset.csv"),
    "validation": ("dev.parquet", "devset.csv"),
    "test": ("test.parquet", "testset_w_refs.csv"),
}
HUB = "tuetschek/e2e_nlg"
_SLOT = re.compile(r"\s*([^,\[\]][^\[\]]*)\[([^\]]*)\]\s*(?:,|$)")


def load(name: str, folder: Path | None = None) -> Task:
    """Load E2E from a folder (Parquet copy or the original CSV files) or from the hub."""
    files = locate(name, folder, ("e2e", "e2e-dataset", "."), FILES)
    if files:
        rows = {split: read_rows(path) for split, path in files.items()}
        columns = ("mr", "ref")
    else:
        from leff.tasks.sources.hub import fetch, hub_rows

        splits = fetch(HUB)
        rows = {split: hub_rows(splits, split, HUB) for split in FILES if split in splits}
        columns = ("meaning_representation", "human_reference")
    source, target = columns
    evaluation = {
        split: group_references(rows[split].text(source), rows[split].text(target))
        for split in rows
        if split != "train"
    }
    return Task(
        name,
        "generation",
        _with_slots(rows["train"], source, target),
        evaluation["validation"],
        evaluation.get("test"),
        attributes=SLOTS,
    )


def parse(meaning: str) -> dict[str, str]:
    """Split ``name[Alimentum], area[city centre]`` into its slots.

    Raises ValueError for anything that is not a list of ``slot[value]``.
    """
    slots: dict[str, str] = {}
    position = 0
    while position < len(meaning):
        match = _SLOT.match(meaning, position)
        if not match:
            raise ValueError(f"not a list of slot[value]: {meaning!r}")
        slots[match[1]] = match[2]
        position = match.end()
    return slots


def _with_slots(rows: Rows, source: str, target: str) -> Table:
    inputs = rows.text(source)
    parsed: dict[str, dict[str, str]] = {}
    for i, meaning in enumerate(inputs):
        if meaning not in parsed:
            try:
                parsed[meaning] = parse(meaning)
            except ValueError as error:
                raise DataError(f"{rows.where(i)}: {error}") from error
    slots = {slot: [parsed[m].get(slot, "none") for m in inputs] for slot in SLOTS}
    return Table({"input": inputs, "target": rows.text(target), **slots})
