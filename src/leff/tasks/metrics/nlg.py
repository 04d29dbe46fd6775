"""The generation metrics of the E2E challenge: BLEU, NIST, METEOR, ROUGE-L and CIDEr.

The figures are those of the challenge's scorer (github.com/tuetschek/e2e-metrics) by default.
METEOR, and the tokenizer of ROUGE-L and CIDEr, are Java programs (``pip install leff[java]``, and
Java on the path).  Without them METEOR is None, the other two use a Python tokenizer, and the notes
say so.

    python -c "from leff.tasks.metrics.nlg import score; print(score([['a b', 'a c']], ['a b']))"
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from leff.errors import DataError
from leff.tasks.metrics import coco as captions
from leff.tasks.metrics import java, mteval, ptb

NAMES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")

# coco-caption removes these tokens.  It also lists brackets, but in upper case (-LRB-).  Tokens are
# lower case by then, so brackets stay.
_PUNCTUATION = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))


@dataclass(frozen=True)
class NlgScores:
    """The five metrics, with notes on some of them.

    `values` has every name of `NAMES`: BLEU, METEOR and ROUGE_L between 0 and 1, NIST in bits,
    CIDEr between 0 and 10.  A metric that is not computed is None.  `notes` says why a metric is
    not computed, or how it differs from the official figure.
    """

    values: dict[str, float | None]
    notes: dict[str, str]


def score(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> NlgScores:
    """Return the official metrics of a corpus: `references[i]` are those of `hypotheses[i]`.

    An empty hypothesis counts as an empty text.  CIDEr of a single input is 0, since its idf is.

    Raises DataError (no input, numbers that differ, an input without a reference) and MetricError
    (a Java program that runs but fails).
    """
    _check(references, hypotheses)
    counts = mteval.count(references, hypotheses)
    values: dict[str, float | None] = dict.fromkeys(NAMES)
    values |= {"BLEU": counts.bleu(), "NIST": counts.nist()}
    notes: dict[str, str] = {}
    programs = java.find()
    lines = [text for texts in references for text in texts] + list(hypotheses)
    if isinstance(programs, str):
        tokens = [ptb.tokenize(line) for line in lines]
        notes["METEOR"] = f"not computed: {programs}"
        notes["ROUGE_L"] = notes["CIDEr"] = f"computed with a Python tokenizer: {programs}"
    else:
        tokens = programs.tokenize(lines)
    words = [[token for token in line if token not in _PUNCTUATION] for line in tokens]
    ends = list(accumulate(map(len, references)))
    targets = [words[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    outputs = words[ends[-1] :]
    values |= {
        "ROUGE_L": captions.rouge_l(targets, outputs),
        "CIDEr": captions.cider(targets, outputs),
    }
    if not isinstance(programs, str):
        values["METEOR"] = programs.meteor(
            [[" ".join(text) for text in texts] for texts in targets], list(map(" ".join, outputs))
        )
    return NlgScores(values, notes)


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> float:
    """Return ``score(references, hypotheses).values["BLEU"]`` alone, quickly and without Java.

    Raises DataError as `score` does.
    """
    _check(references, hypotheses)
    return mteval.count(references, hypotheses).bleu()


def read_official(
    references_path: Path | str, hypotheses_path: Path | str
) -> tuple[list[list[str]], list[str]]:
    """Read the text format of the official scorer, in UTF-8 with any line ending.

    Hypotheses: one a line; an empty line is an empty hypothesis.  References: one a line, with
    empty lines between the references of two inputs.  A file without an empty line has one
    reference for each hypothesis, or all references of a single hypothesis.  Texts keep their
    quotes, and lose the blanks around them.

    Raises DataError (a file that is missing, empty or not UTF-8, numbers of inputs that differ).
    """
    hypotheses = _lines(Path(hypotheses_path))
    groups: list[list[str]] = [[]]
    for line in _lines(Path(references_path)):
        if line:
            groups[-1].append(line)
        elif groups[-1]:
            groups.append([])
    references = groups if groups[-1] else groups[:-1]
    if not references:
        raise DataError(f"{references_path} has empty lines only; give one reference a line")
    if len(references) == 1 and len(hypotheses) > 1:
        references = [[text] for text in references[0]]
    while len(hypotheses) > len(references) and not hypotheses[-1]:
        hypotheses.pop()  # empty lines after the last hypothesis
    if len(references) != len(hypotheses):
        raise DataError(
            f"{references_path} has references for {len(references)} inputs, but "
            f"{hypotheses_path} has {len(hypotheses)} hypotheses; there must be one line for each "
            "input, and an empty line between the references of two inputs"
        )
    return references, hypotheses


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}, is not UTF-8; convert the file to UTF-8") from error
    if not text:
        raise DataError(f"{path} is empty; give one text a line")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    return [line.strip() for line in lines]


def _check(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    if len(references) != len(hypotheses):
        raise DataError(
            f"there are references for {len(references)} inputs but {len(hypotheses)} hypotheses; "
            "give one hypothesis for each input"
        )
    if not hypotheses:
        raise DataError("there is nothing to score; give at least one hypothesis")
    for place, texts in enumerate(references):
        if isinstance(texts, str):
            raise DataError(f"the references of input {place} are one string; give a list of them")
        if not texts:
            raise DataError(f"input {place} has no reference; give every input at least one")
