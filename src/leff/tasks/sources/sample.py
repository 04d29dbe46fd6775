"""The built-in task: a grammar describes country walks from their attributes.

    python -c "from leff.tasks.load import sample; print(sample.load(0).train[0])"

A checksum divides all meanings into a public part (pretraining and proxy texts), an evaluation part
and a training part.  So texts of different parts never share a meaning, whatever their seeds.

- `load`: the task, inputs beside their texts.
- `pretraining_text`: the texts that the packaged model (`MODEL`) was pretrained on.  An input never
  stands beside a text.
- `proxy_text`: public text for the server, without labels.  Inputs stand beside texts of *other*
  walks.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from leff.tasks.columns import Table
from leff.tasks.sources.sample_grammar import Meaning, draw_meaning, linearise, realise
from leff.tasks.sources.sample_words import ATTRIBUTES
from leff.tasks.task import Task
from leff.tasks.text_form import USUAL

MODEL = Path(__file__).parent / "sample_model"


_PARTS = {"public": range(0, 3), "evaluation": range(3, 4), "training": range(4, 8)}  # of 8


def load(
    seed: int = 0, *, train_rows: int = 4000, evaluation_rows: int = 200, references: int = 8
) -> Task:
    """Return the task of a `seed`: one text per training input, several per evaluation input."""
    rng = Random(f"task/{seed}")
    train = [
        {"input": linearise(m), "target": realise(m, rng)}
        | {a: m.get(a, "none") for a in ATTRIBUTES}
        for m in _distinct("training", train_rows, rng)
    ]
    evaluation = [
        {"input": linearise(m), "references": _references(m, references, rng)}
        for m in _distinct("evaluation", 2 * evaluation_rows, rng)
    ]
    return Task(
        name="sample",
        kind="generation",
        train=_table(train),
        validation=_table(evaluation[:evaluation_rows]),
        test=_table(evaluation[evaluation_rows:]),
        attributes=ATTRIBUTES,
    )


def pretraining_text(seed: int = 0) -> Iterator[str]:
    """Yield documents without end: two texts of one walk, or one input written twice.

    The second writing of an input shuffles its attributes.  So the model learns to look up values.
    It also learns that an input, not prose, follows the separator.
    """
    rng = Random(f"pretraining/{seed}")
    while True:
        meaning = _draw("public", rng)
        if rng.random() < 0.5:
            yield f"{realise(meaning, rng)} {realise(meaning, rng)}"
        else:
            yield _rewritten(meaning, rng)


def proxy_text(seed: int = 0) -> Iterator[str]:
    """Yield public documents without end, half of them an input beside another walk's text."""
    rng = Random(f"proxy/{seed}")
    while True:
        meaning, other = _draw("public", rng), _draw("public", rng)
        kind = rng.choice(("mixed", "mixed", "input", "text"))
        if kind == "mixed":
            yield f"{USUAL.filled(linearise(meaning))} {realise(other, rng)}"
        elif kind == "input":
            yield _rewritten(meaning, rng)
        else:
            yield f"{realise(meaning, rng)} {realise(other, rng)}"


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table({name: [row[name] for row in rows] for name in rows[0]} if rows else {})


def _rewritten(meaning: Meaning, rng: Random) -> str:
    """Return a meaning's input, the separator, and the input again in another order."""
    shuffled = dict(rng.sample(tuple(meaning.items()), len(meaning)))
    return f"{USUAL.filled(linearise(meaning))} {linearise(shuffled)}"


def _draw(part: str, rng: Random) -> Meaning:
    """Draw a meaning of one part."""
    while True:
        meaning = draw_meaning(rng)
        if zlib.crc32(linearise(meaning).encode()) % 8 in _PARTS[part]:
            return meaning


def _distinct(part: str, count: int, rng: Random) -> list[Meaning]:
    """Draw `count` distinct meanings of one part."""
    meanings: dict[str, Meaning] = {}
    while len(meanings) < count:
        meaning = _draw(part, rng)
        meanings.setdefault(linearise(meaning), meaning)
    return list(meanings.values())


def _references(meaning: Meaning, count: int, rng: Random) -> list[str]:
    """Return up to `count` distinct texts of one meaning."""
    return list(dict.fromkeys(realise(meaning, rng) for _ in range(2 * count)))[:count]
