"""BLEU and NIST as the E2E challenge scorer computes them (its `-p` option, pymteval).

Tokens are mteval-v13a's, lower-cased.  Both scores take any number of references per input.  Three
rules of that program are kept here, so that the figures are equal:

- An empty text counts as one empty token.  A text of k tokens adds k - n + 1 n-grams to the total,
  even if that is negative.
- BLEU without a hit of some order is very small, not 0: the hits are floored at 1e-15.
- NIST's reference length is the sum over inputs of the mean length of an input's references.  The
  challenge's Perl program (its default) divides the length of all references by the mean number
  of references.  The two differ if inputs with more references have longer or shorter ones.
  `Counts.nist(perl=True)` gives the Perl figure.

NIST: Doddington, HLT 2002.  BLEU: Papineni et al., ACL 2002, with the closest reference length.

    count([['a b c d']], ['a b c']).nist()
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_BLEU_ORDER = 4
_NIST_ORDER = 5
_NO_HITS = 1e-15  # the floors of pymteval
_NO_LENGTH = 1e-9
_NIST_BETA = math.log(0.5) / math.log(1.5) ** 2  # half the score at two thirds of the length


@dataclass(frozen=True)
class Counts:
    """The counts of a corpus that BLEU and NIST need; the lists start at order 1."""

    hits: list[int]
    totals: list[int]
    information: list[float]  # bits of the hits
    closest_length: int  # tokens, sum over inputs
    mean_length: float  # tokens, sum over inputs of the mean over references
    perl_length: float  # tokens, all references over the mean number of references

    def bleu(self) -> float:
        """Return BLEU, between 0 and 1."""
        pairs = zip(self.hits[:_BLEU_ORDER], self.totals[:_BLEU_ORDER], strict=True)
        logs = [math.log(max(hit, _NO_HITS) / max(total, _NO_LENGTH)) for hit, total in pairs]
        brevity = min(0.0, 1 - self.closest_length / self.totals[0])
        # Negative totals (see above) can push the official figure beyond 1.
        return min(1.0, math.exp(brevity + sum(logs) / _BLEU_ORDER))

    def nist(self, *, perl: bool = False) -> float:
        """Return NIST, in bits, with the length penalty of pymteval or of the Perl program."""
        pairs = zip(self.information, self.totals, strict=True)
        gain = sum(bits / total for bits, total in pairs if total > 0)
        ratio = min(1.0, self.totals[0] / (self.perl_length if perl else self.mean_length))
        return gain * math.exp(_NIST_BETA * math.log(ratio) ** 2)


def count(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Counts:
    """Count the n-grams of a corpus; every input needs a reference."""
    targets = [[tokenize(text) for text in texts] for texts in references]
    outputs = [tokenize(text) for text in hypotheses]
    lengths = [[len(tokens) for tokens in texts] for texts in targets]
    tokens = sum(map(sum, lengths))
    known: Counter[tuple[str, ...]] = Counter()  # n-grams of all references
    known[()] = tokens
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
        totals.append(sum(len(output) - n + 1 for output in outputs))
        information.append(  # bits that the last word of an n-gram adds to those before it
            sum(
                times * math.log2(known[gram[:-1]] / known[gram]) for gram, times in matched.items()
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
        mean_length=math.fsum(sum(own) / len(own) for own in lengths),
        perl_length=tokens / (sum(map(len, lengths)) / len(lengths)),
    )


def tokenize(text: str) -> list[str]:
    """Return the lower-case mteval-v13a tokens; an empty text has one empty token."""
    return _tokenizer_13a()(text).lower().split(" ")


@cache
def _tokenizer_13a() -> "Tokenizer13a":
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))
