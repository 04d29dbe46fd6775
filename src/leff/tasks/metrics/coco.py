"""ROUGE-L and CIDEr as the E2E challenge scorer computes them (the coco-caption code).

Both take tokens.  The official tokens are the Stanford tokenizer's without punctuation.  ROUGE-L
(Lin, ACL workshop 2004) is the F-score, beta 1.2, of the best precision and the best recall over
an input's references.  CIDEr (Vedantam et al., CVPR 2015, in its CIDEr-D form) compares n-grams
up to 4 by tf-idf.  The idf comes from the references, so a corpus of one input scores 0.

    python -c "from leff.tasks.metrics.coco import rouge_l; print(rouge_l([[['a','b']]], [['a']]))"
"""

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]
Gram = tuple[str, ...]

_BETA_SQUARED = 1.2**2
_ORDER = 4
_SIGMA_SQUARED = 6.0**2  # of the penalty on a difference in length


def rouge_l(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]) -> float:
    """Return the mean ROUGE-L over inputs, between 0 and 1."""
    scores = map(_rouge_one, references, hypotheses)
    return math.fsum(scores) / len(hypotheses)


def _rouge_one(references: Sequence[Tokens], hypothesis: Tokens) -> float:
    # The official code splits "" into one empty token, so two empty texts agree.
    output = hypothesis or [""]
    targets = [reference or [""] for reference in references]
    common = [_longest_common(target, output) for target in targets]
    precision = max(common) / len(output)
    recall = max(n / len(target) for n, target in zip(common, targets, strict=True))
    if not precision:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _longest_common(left: Tokens, right: Tokens) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for place, other in enumerate(right, start=1):
            above = row[place]
            row[place] = diagonal + 1 if word == other else max(above, row[place - 1])
            diagonal = above
    return row[-1]


def cider(references: Sequence[Sequence[Tokens]], hypotheses: Sequence[Tokens]) -> float:
    """Return the mean CIDEr over inputs, between 0 and 10."""
    targets = [[_all_ngrams(text) for text in texts] for texts in references]
    inputs_with = Counter(gram for texts in targets for gram in set[Gram]().union(*texts))
    log_inputs = math.log(len(targets))
    idf = {gram: log_inputs - math.log(inputs) for gram, inputs in inputs_with.items()}

    def weigh(counts: Counter[Gram]) -> list[dict[Gram, float]]:
        weights: list[dict[Gram, float]] = [{} for _ in range(_ORDER)]
        for gram, times in counts.items():
            weights[len(gram) - 1][gram] = times * idf.get(gram, log_inputs)
        return weights

    scores: list[float] = []
    for texts, hypothesis in zip(targets, hypotheses, strict=True):
        counts = _all_ngrams(hypothesis)
        output = weigh(counts)
        similar = [_similarity(output, weigh(t)) * _closeness(counts, t) for t in texts]
        scores.append(10 * math.fsum(similar) / len(similar))
    return math.fsum(scores) / len(scores)


def _similarity(output: list[dict[Gram, float]], target: list[dict[Gram, float]]) -> float:
    """Return the mean over orders of the clipped cosine."""
    total = 0.0
    for own, other in zip(output, target, strict=True):
        norm = _norm(own) * _norm(other)
        if norm:
            shared = (gram for gram in own if gram in other)  # in order: a set's varies by process
            dot = sum(min(own[gram], other[gram]) * other[gram] for gram in shared)
            total += dot / norm
    return total / _ORDER


def _closeness(output: Counter[Gram], target: Counter[Gram]) -> float:
    # The official length is the number of bigrams.
    difference = sum(n for gram, n in output.items() if len(gram) == 2) - sum(
        n for gram, n in target.items() if len(gram) == 2
    )
    return math.exp(-(difference**2) / (2 * _SIGMA_SQUARED))


def _norm(weights: dict[Gram, float]) -> float:
    return math.sqrt(sum(weight**2 for weight in weights.values()))


def _all_ngrams(tokens: Tokens) -> Counter[Gram]:
    return Counter(
        tuple(tokens[start : start + n])
        for n in range(1, _ORDER + 1)
        for start in range(len(tokens) - n + 1)
    )
