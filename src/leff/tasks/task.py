"""A task: three tables with canonical columns, and what is learnt from them.

python -c "from leff.tasks.load import load_task; print(load_task('sample').kind)"
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from leff.seeds import derive_seed, numpy_rng
from leff.tasks.columns import Table
from leff.tasks.encode import Kind
from leff.tasks.text_form import USUAL


@dataclass(frozen=True)
class Task:
    """Data with these columns, by kind:

    - generation: `train` has ``input`` and ``target``; `validation` and `test` have ``input`` and
      ``references`` (a list).
    - chat: ``messages``, a conversation a row, whose last turn is an answer (`chat`).
    - classification, regression: ``text``, ``text_pair`` (two-sentence tasks only), and ``label``,
      an int that indexes `labels`, or a float.
    - multilabel: the same, with a ``label`` of a 1.0 or 0.0 for each of `labels`.
    - text: ``text``, one document a row; and ``text_pair`` of proxy data that has one.

    `attributes` are the columns of `train` by which clients can be split.  `unusable` says of the
    file's other columns, by name, why they cannot divide the clients.

    `shots` are worked examples by subject, for MMLU only.  There a model is measured by the answer
    that it finds likeliest after them, and `validation` and `test` have one row for every question,
    with its ``subject``.

    `prompt` is the default form of an input's prompt, for generation (`TextForm`).
    """

    name: str
    kind: Kind
    train: Table
    validation: Table
    test: Table | None
    labels: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    shots: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    prompt: str = USUAL.prompt
    unusable: Mapping[str, str] = field(default_factory=dict[str, str])


def group_references(inputs: Sequence[str], targets: Sequence[str]) -> Table:
    """Return one row per distinct input, with all its targets as ``references``, in file order."""
    references: dict[str, list[str]] = {}
    for source, target in zip(inputs, targets, strict=True):
        references.setdefault(source, []).append(target)
    return Table({"input": list(references), "references": list(references.values())})


def draw_rows(table: Table, count: int | None, seed: int, purpose: str) -> Table:
    """Return `count` random rows in file order, drawn for a purpose; None means all rows."""
    if count is None or count >= len(table):
        return table
    return table.select(sorted(numpy_rng(seed, purpose).permutation(len(table))[:count]))


def own_validation(table: Table, kind: Kind, share: float) -> list[bool]:
    """Return for every row of one client whether it is held out to measure models on.

    A `share` of its texts is drawn, always the same; rows with the same text stay together.
    Nothing is held out of a client with a single text, or with a share of 0.
    """
    if not share:
        return [False] * len(table)
    if kind == "chat":
        units = [asked(talk) for talk in table["messages"]]
        return held_out(units, derive_seed(0, "validation"), share)
    texts = [text.strip() for text in table["input" if kind == "generation" else "text"]]
    pairs = [text.strip() for text in table.columns.get("text_pair", [""] * len(table))]
    return held_out(list(zip(texts, pairs, strict=True)), derive_seed(0, "validation"), share)


def asked(messages: Sequence[Mapping[str, str]]) -> Hashable:
    """Return what makes two conversations copies: the contents of all turns but the last."""
    return tuple(message["content"].strip() for message in messages[:-1])


def held_out(units: Sequence[Hashable], seed: int, fraction: float = 0.1) -> list[bool]:
    """Return for every row whether it is held out; rows of one unit stay together.

    `fraction` of the units is drawn with `seed`.  Of two or more units, at least one is held out
    and at least one is left.
    """
    import numpy as np

    distinct = list(dict.fromkeys(units))
    count = min(max(1, round(len(distinct) * fraction)), max(len(distinct) - 1, 0))
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:count]
    taken: set[Hashable] = {distinct[i] for i in chosen}
    return [unit in taken for unit in units]
