"""MMLU (Hendrycks et al. 2021): questions with four answers each, from 57 subjects.

    load_task("mmlu", "data").test[0]["input"]

The prompts equal those of the authors' `evaluate.py` (github.com/hendrycks/test), blanks included.
``mmlu`` trains and validates on `val`, so a round's validation figure is of questions that the
clients have seen.  ``mmlu_auxiliary`` trains on the 99,842 questions of `auxiliary_train`.  These
have no subjects, so clients cannot be split by subject.  No task trains on `test`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError, DataError, nearest
from leff.tasks.columns import Table, joined_tables
from leff.tasks.sources.files import locate, read_rows
from leff.tasks.sources.rows import Rows
from leff.tasks.task import Task, draw_rows
from leff.tasks.text_form import AS_IT_IS

LETTERS = "ABCD"
SHOTS = 5  # worked examples of each subject in `dev`
AUXILIARY = "mmlu_auxiliary"
FILES = {
    "train": ("val.parquet",),
    "validation": ("val.parquet",),
    "test": ("test.parquet",),
    "dev": ("dev.parquet",),
}
HUB = "cais/mmlu"
_ANSWERS = {str(i): letter for i, letter in enumerate(LETTERS)} | {a: a for a in LETTERS}

Shots = Mapping[str, Sequence[str]]  # subject -> its worked examples, as they stand in a prompt


def load(name: str, folder: Path | None = None) -> Task:
    """Load MMLU from a folder of Parquet files or from the hub; every question is a row.

    ``input`` is the prompt without worked examples, and ``target`` is the letter.  The column
    ``subject`` is for splits and `Task.shots`; only the questions of `auxiliary_train` lack it.
    """
    rows = _rows(name, folder)
    columns = {split: _columns(part) for split, part in rows.items()}
    shots = _shots(columns["dev"])
    return Task(
        name,
        "generation",
        _training(columns["train"], name),
        _evaluation(columns["validation"], shots, rows["validation"]),
        _evaluation(columns["test"], shots, rows["test"]) if "test" in rows else None,
        attributes=() if name == AUXILIARY else ("subject",),
        shots=shots,
        prompt=AS_IT_IS.prompt,  # a question ends in "Answer:"
    )


def load_test(
    folder: Path | None = None, subjects: Sequence[str] = (), examples: int | None = None
) -> tuple[Table, Shots]:
    """Return the test questions of the subjects (all, if none is named), and the worked examples.

    `examples` limits the questions of each subject; the choice is always the same.  Raises
    ConfigError for an unknown subject, DataError for a missing file, column or answer.
    """
    rows = _rows("mmlu", folder, only=("test", "dev"))
    if "test" not in rows:
        place = Path(rows["dev"].path).parent
        raise DataError(f"{place} has no test.parquet, the questions that MMLU is measured on")
    shots = _shots(_columns(rows["dev"]))
    questions = _evaluation(_columns(rows["test"]), shots, rows["test"])
    places: dict[str, list[int]] = {}
    for i, subject in enumerate(rows["test"].column("subject")):
        places.setdefault(subject, []).append(i)
    for subject in subjects:
        if subject not in places:
            raise ConfigError(f"MMLU has no subject {subject!r}{nearest(subject, places)}")
    drawn = [
        draw_rows(questions.select(places[subject]), examples, 0, subject)
        for subject in dict.fromkeys(subjects or places)
    ]
    return joined_tables(drawn), shots


def header(subject: str) -> str:
    """Return the start of a prompt; `subject` is empty for the questions of `auxiliary_train`."""
    # two blanks before the subject, as in the authors' code
    about = " about  " + subject.replace("_", " ") if subject else ""
    return f"The following are multiple choice questions (with answers){about}.\n\n"


def ask(question: str, choices: Sequence[str]) -> str:
    """Return a question with its four choices, ending in ``Answer:``."""
    listed = (f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{question}{''.join(listed)}\nAnswer:"


def with_shots(text: str, subject: str, shots: Sequence[str]) -> str:
    """Return an ``input`` with worked examples between its header and its question."""
    start = header(subject)
    return start + "".join(shots) + text.removeprefix(start)


def _rows(name: str, folder: Path | None, only: Sequence[str] = tuple(FILES)) -> dict[str, Rows]:
    names = FILES | ({"train": ("auxiliary_train.parquet",)} if name == AUXILIARY else {})
    files = locate(name, folder, ("mmlu", "."), names)
    if files and "dev" not in files:
        place = files["validation"].parent
        raise DataError(f"{place} has no dev.parquet, the worked examples of MMLU's prompts")
    if files:
        return {split: read_rows(path) for split, path in files.items() if split in only}
    from leff.tasks.sources.hub import fetch, hub_rows

    splits = fetch(HUB, "all")
    theirs = {"train": "auxiliary_train" if name == AUXILIARY else "validation"}
    return {split: hub_rows(splits, theirs.get(split, split), HUB) for split in only}


def _columns(rows: Rows) -> dict[str, list[str]]:
    """Return ``subject``, ``question`` (with its choices) and ``answer`` (a letter), checked."""
    choices: Sequence[Sequence[Any]]  # texts, checked below
    if "choices" in rows.columns:
        choices = rows.column("choices")
    else:
        choices = list(zip(*(rows.text(letter) for letter in LETTERS), strict=True))
    for i, four in enumerate(choices):
        if len(four) != len(LETTERS) or not all(isinstance(choice, str) for choice in four):
            raise DataError(f"{rows.where(i)}: choices must be four texts, got {four!r}")
    answers = [_ANSWERS.get(str(answer)) for answer in rows.column("answer")]
    if None in answers:
        i = answers.index(None)
        wrong = rows.column("answer")[i]
        raise DataError(f"{rows.where(i)}: answer {wrong!r} is none of A to D, or 0 to 3")
    questions = zip(rows.text("question"), choices, strict=True)
    return {
        "subject": rows.text("subject"),
        "question": [ask(question, four) for question, four in questions],
        "answer": [answer for answer in answers if answer],
    }


def _shots(columns: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the first five worked examples of every subject, as they stand in a prompt."""
    shots: dict[str, tuple[str, ...]] = {}
    for subject, question, answer in zip(*columns.values(), strict=True):
        shots[subject] = (*shots.get(subject, ()), f"{question} {answer}\n\n")[:SHOTS]
    return shots


def _inputs(columns: Mapping[str, Sequence[str]]) -> list[str]:
    pairs = zip(columns["subject"], columns["question"], strict=True)
    return [header(subject) + question for subject, question in pairs]


def _training(columns: Mapping[str, Sequence[str]], name: str) -> Table:
    subjects = {} if name == AUXILIARY else {"subject": columns["subject"]}
    return Table({"input": _inputs(columns), "target": columns["answer"], **subjects})


def _evaluation(columns: Mapping[str, Sequence[str]], shots: Shots, rows: Rows) -> Table:
    for i, subject in enumerate(columns["subject"]):
        if (count := len(shots.get(subject, ()))) < SHOTS:
            raise DataError(
                f"{rows.where(i)}: subject {subject!r} needs {SHOTS} worked examples, "
                f"and dev has {count}"
            )
    references = [[answer] for answer in columns["answer"]]
    subjects = columns["subject"]
    return Table({"input": _inputs(columns), "references": references, "subject": subjects})
