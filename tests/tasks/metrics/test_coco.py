import math
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.tasks.metrics.coco import cider, rouge_l

texts = st.lists(st.sampled_from("abcde"), max_size=8)
inputs = st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), texts), min_size=1, max_size=5)


@pytest.mark.parametrize("name, ours", [("Rouge", rouge_l), ("Cider", cider)])
@given(corpus=inputs)
@settings(deadline=None, max_examples=80)
def test_equal_to_coco_caption(name, ours, corpus):
    module = pytest.importorskip(f"pycocoevalcap.{name.lower()}.{name.lower()}")
    references, hypotheses = zip(*corpus, strict=True)
    joined = {i: [" ".join(text) for text in own] for i, own in enumerate(references)}
    outputs = {i: [" ".join(text)] for i, text in enumerate(hypotheses)}
    if not any(map(any, references)):
        return  # coco-caption's CIDEr stops at a corpus without any word
    expected, _ = getattr(module, name)().compute_score(joined, outputs)
    assert ours(references, hypotheses) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


def test_rouge_by_hand():
    # Longest common subsequence "a c": precision 2/3, recall 2/4.
    precision, recall = 2 / 3, 2 / 4
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l([["abcd"]], ["axc"]) == pytest.approx(expected)
    assert rouge_l([["ab"]], ["xy"]) == 0


def test_rouge_takes_the_best_precision_and_the_best_recall():
    assert rouge_l([[["a", "b", "c", "d"], ["a"]]], [["a", "b"]]) == pytest.approx(1)


def test_empty_texts():
    assert rouge_l([[["a"]]], [[]]) == 0
    assert rouge_l([[[]]], [[]]) == 1  # as the official code has it
    assert cider([[["a"]], [["b"]]], [[], []]) == 0
    assert cider([[[]], [[]]], [[], []]) == 0


def test_cider_by_hand():
    # Two inputs, no word in both: the identical text has cosine 1 in all four orders.
    references = [[list("abcd")], [list("wxyz")]]
    assert cider(references, [list("abcd"), list("wxyz")]) == pytest.approx(10)
    assert cider(references, [list("abcd"), list("abcd")]) == pytest.approx(5)
    # Three bigrams more: the penalty exp(-9 / 72), and the cosine of n-grams by hand.
    longer = list("abcdpqr")
    cosine = sum((4 - n) / math.sqrt((4 - n) * (7 - n)) for n in range(4)) / 4
    expected = 10 * math.exp(-9 / 72) * cosine / 2
    assert cider(references, [longer, []]) == pytest.approx(expected)


def test_cider_of_one_input_is_zero():
    assert cider([[list("abcd")]], [list("abcd")]) == 0


def test_cider_is_the_same_in_every_process():
    """To the bit: a resumed run is measured in another process, where strings hash otherwise."""
    code = (
        "import random; from leff.tasks.metrics.coco import cider; r = random.Random(0)\n"
        "def text(): return [f'w{r.randrange(9)}' for _ in range(30)]\n"
        "for _ in range(30): print(cider([[text()] for _ in range(9)], [text() for _ in range(9)]))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(4)
    }
    assert len(printed) == 1
