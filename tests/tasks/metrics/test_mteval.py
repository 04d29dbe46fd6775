import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist
from sacrebleu.metrics.bleu import BLEU

from leff.tasks.metrics.mteval import count, tokenize

words = st.sampled_from(["The", "cat", "sat", "on", "mats", "£20-25", "café", ",", "."])
texts = st.lists(words, min_size=6, max_size=12).map(" ".join)
inputs = st.lists(st.tuples(st.lists(texts, min_size=1, max_size=4), texts), min_size=1, max_size=5)

# Corpora of ours with what mteval-v13a.pl printed for them, in the files and with the options that
# the challenge's measure_scores.py gives it.  The figures are rounded to four decimals.
PERL = json.loads((Path(__file__).parent / "mteval_perl.json").read_text(encoding="utf-8"))


def test_tokens_are_13a_with_a_to_z_in_lower_case():
    text = "The CafÉ (£20-25, 4.5 stars), isn't &quot;Dear&quot;. 5-star"
    expected = 'the cafÉ ( £20 - 25 , 4.5 stars ) , isn\'t " dear " . 5 - star'
    assert tokenize(text) == expected.split()
    assert tokenize("semi-\ndetached") == ["semi-", "detached"]
    assert tokenize("  ") == tokenize("<skipped>") == []


@pytest.mark.parametrize("corpus", PERL, ids=range(len(PERL)))
def test_the_perl_programs_figures(corpus):
    counts = count(corpus["references"], corpus["hypotheses"])
    assert counts.nist() == pytest.approx(corpus["NIST"], abs=0.5e-4 + 1e-9)
    assert counts.bleu() == pytest.approx(corpus["BLEU"], abs=0.5e-4 + 1e-9)


@given(inputs)
@settings(deadline=None, max_examples=60)
def test_bleu_is_sacrebleus_with_its_exponential_smoothing(corpus):
    references, hypotheses = map(list, zip(*corpus, strict=True))
    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="exp")
    expected = metric.corpus_score(hypotheses, streams).score / 100
    assert count(references, hypotheses).bleu() == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_nist_of_single_references_is_nltks(corpus):
    pairs = [(tokenize(reference), tokenize(hypothesis)) for reference, hypothesis in corpus]
    expected = corpus_nist([[reference] for reference, _ in pairs], [h for _, h in pairs])
    counts = count([[reference] for reference, _ in corpus], [h for _, h in corpus])
    assert counts.nist() == pytest.approx(expected, rel=1e-9)


def test_nist_by_hand():
    # Four different words: each unigram says log2(4 / 1) = 2 bits, each longer n-gram none.
    assert count([["a b c d"]], ["a b c d"]).nist() == pytest.approx(2)
    assert count([["a b c d"]], ["x y z v"]).nist() == 0
    # Half the score at two thirds of the length.
    assert count([["a b c d e f"]], ["a b c d"]).nist() == pytest.approx(math.log2(6) / 2)


def test_nist_length_with_varying_numbers_of_references():
    counts = count([["a b c"], ["d e f g h i", "d e f g h i j k", ""]], ["a b c", "d e"])
    assert counts.mean_length == pytest.approx((3 + 6 + 8) / 1.5)  # an empty one does not count


def test_an_n_gram_counts_as_often_as_in_one_reference():
    # "a" is twice in one reference and once in the other: two of three count, not three.
    assert count([["a a b c", "a d e f"]], ["a a a"]).hits[0] == 2


def test_the_closest_reference_length_and_the_shorter_of_two():
    assert count([["a b", "a b c d e f", "a b c d"]], ["a b c"]).closest_length == 2


@pytest.mark.parametrize("text", ["a b c d", "The Mill is cheap, £20.", "a"])
def test_bleu_of_the_reference_itself(text):
    assert count([["x y", text]], [text]).bleu() == pytest.approx(1)


def test_short_and_empty_texts():
    counts = count([["a b c d e"], ["a"]], ["a b c d e", ""])
    assert counts.totals == [5, 4, 3, 2, 1]
    # Half a hit of three bigrams, a quarter of two trigrams, an eighth of one.
    smoothed = 1 / 4 * 1 / 6 * 1 / 8 * 1 / 8
    assert count([["a b c d"]], ["a x y z"]).bleu() == pytest.approx(smoothed**0.25)
    for nothing in (count([["a"]], [""]), count([[""]], ["a"]), count([[""]], [""])):
        assert nothing.nist() == 0 and math.isfinite(nothing.bleu())
