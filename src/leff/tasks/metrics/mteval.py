"""BLEU and NIST as the E2E challenge scorer computes them by default (mteval-v13a.pl, in Perl).

Tokens are mteval-v13a's, with A to Z in lower case and other capitals left.  Both scores take any
number of references per input.  These rules of that program are kept, so that figures are equal:

- An empty text has no token.  A text shorter than n tokens has no n-gram.
- BLEU is smoothed: the first order without a hit counts half a hit, the next a quarter, and so on.
  An order without n-grams counts as all hit.  So short texts score high: "a" for "a" is 1.
- NIST's reference length is the length of all references over their mean number per input.
- NIST takes a first word "0" for no word, since "0" is false in Perl: "0 x" says as much as if
  nothing stood before x.

The scorer's `-p` option (pymteval) differs in all of them.  On short texts its figures may be
several per cent away.

Source: github.com/tuetschek/e2e-metrics, mteval/mteval-v13a-sig.pl.  NIST: Doddington, HLT 2002.
BLEU: Papineni et al., ACL 2002, with the closest reference length.

    count([['a b c d']], ['a b c']).nist()
"""

import math
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_BLEU_ORDER = 4
_NIST_ORDER = 5
_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # half the score at two thirds of the length
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True)
class Counts:
    """The counts of a corpus that BLEU and NIST need; the lists start at order 1."""

    hits: list[int]
    totals: list[int]
    information: list[float]  # bits of the hits
    closest_length: int  # tokens, sum over inputs
    mean_length: float  # tokens, of all references over their mean number per input

    def bleu(self) -> float:
        """Return BLEU, between 0 and 1."""
        if not self.totals[0]:
            return 0.0
        log, share = min(0.0, 1 - self.closest_length / self.totals[0]), 1.0
        for hits, total in zip(self.hits[:_BLEU_ORDER], self.totals, strict=False):
            if total and not hits:
                share /= 2
            if total:
                log += math.log((hits or share) / total) / _BLEU_ORDER
        return math.exp(log)

    def nist(self) -> float:
        """Return NIST, in bits."""
        if not self.totals[0] or not self.mean_length:
            return 0.0
        pairs = zip(self.information, self.totals, strict=True)
        gain = sum(bits / max(total, 1) for bits, total in pairs)
        ratio = min(1.0, self.totals[0] / self.mean_length)
        return gain * math.exp(_NIST_BETA * math.log(ratio) ** 2)


def count(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Counts:
    """Count the n-grams of a corpus; every input needs a reference."""
    targets = [[tokenize(text) for text in texts] for texts in references]
    outputs = [tokenize(text) for text in hypotheses]
    lengths = [[len(tokens) for tokens in texts if tokens] or [0] for texts in targets]
    tokens = sum(map(sum, lengths))
    known: Counter[tuple[str, ...]] = Counter({(): tokens})  # n-grams of all references
    hits: list[int] = []
    totals: list[int] = []
    information: list[float] = []
    for n in range(1, _NIST_ORDER + 1):
        matched: Counter[tuple[str, ...]] = Counter()
        for texts, output in zip(targets, outputs, strict=True):
            allowed: Counter[tuple[str, ...]] = Counter()
            for grams in (_ngrams(text, n) for text in texts):
                known.update(grams)
                allowed |= grams  # the largest count of any reference
            matched.update(_ngrams(output, n) & allowed)
        hits.append(matched.total())
        totals.append(sum(max(0, len(output) - n + 1) for output in outputs))
        information.append(  # bits that the last word of an n-gram adds to those before it
            sum(
                times * math.log2(known[_before(gram)] / known[gram])
                for gram, times in matched.items()
            )
        )
    return Counts(
        hits,
        totals,
        information,
        closest_length=sum(
            min(own, key=lambda length: (abs(length - len(output)), length))
            for own, output in zip(lengths, outputs, strict=True)
        ),
        mean_length=tokens / (sum(map(len, lengths)) / len(lengths)),
    )


def tokenize(text: str) -> list[str]:
    """Return the mteval-v13a tokens, with A to Z in lower case."""
    line = " ".join(text.split())  # the program joins lines before it sees a hyphen at their end
    return _tokenizer_13a()(line).translate(_LOWER).split()


@cache
def _tokenizer_13a() -> "Tokenizer13a":
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def _before(gram: tuple[str, ...]) -> tuple[str, ...]:
    return () if gram[:-1] == ("0",) else gram[:-1]


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
