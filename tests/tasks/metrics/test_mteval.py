import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.nist_score import corpus_nist
from sacrebleu.metrics.bleu import BLEU

from leff.tasks.metrics.mteval import count, tokenize

words = st.sampled_from(["The", "cat", "sat", "on", "mats", "£20-25", "café", ",", "."])
texts = st.lists(words, min_size=6, max_size=12).map(" ".join)
inputs = st.lists(st.tuples(st.lists(texts, min_size=1, max_size=4), texts), min_size=1, max_size=5)


def test_tokens_are_13a_lower_case():
    text = "The café (£20-25, 4.5 stars), isn't &quot;Dear&quot;. 5-star"
    expected = 'the café ( £20 - 25 , 4.5 stars ) , isn\'t " dear " . 5 - star'
    assert tokenize(text) == expected.split()
    assert tokenize("  ") == [""]


@given(inputs)
@settings(deadline=None, max_examples=60)
def test_bleu_is_sacrebleu_with_its_floor_at_1e_15(corpus):
    references, hypotheses = map(list, zip(*corpus, strict=True))
    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    metric = BLEU(lowercase=True, tokenize="13a", smooth_method="floor", smooth_value=1e-15)
    expected = metric.corpus_score(hypotheses, streams).score / 100
    assert count(references, hypotheses).bleu() == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_nist_of_single_references_is_nltks(corpus):
    pairs = [(tokenize(reference), tokenize(hypothesis)) for reference, hypothesis in corpus]
    expected = corpus_nist([[reference] for reference, _ in pairs], [h for _, h in pairs])
    counts = count([[reference] for reference, _ in corpus], [h for _, h in corpus])
    assert counts.nist() == pytest.approx(expected, rel=1e-9)
    assert counts.nist(perl=True) == pytest.approx(expected, rel=1e-9)


def test_nist_by_hand():
    # Four different words: each unigram says log2(4 / 1) = 2 bits, each longer n-gram none.
    assert count([["a b c d"]], ["a b c d"]).nist() == pytest.approx(2)
    assert count([["a b c d"]], ["x y z v"]).nist() == 0
    # Half the score at two thirds of the length.
    assert count([["a b c d e f"]], ["a b c d"]).nist() == pytest.approx(math.log2(6) / 2)


def test_nist_lengths_with_varying_numbers_of_references():
    counts = count([["a b c"], ["d e f g h i", "d e f g h i j k"]], ["a b c", "d e"])
    assert counts.mean_length == 3 + 7
    assert counts.perl_length == pytest.approx((3 + 6 + 8) / 1.5)

    def penalty(ratio):
        return 2 ** -((math.log(ratio) / math.log(1.5)) ** 2)

    ratio = penalty(5 / 10) / penalty(5 / (17 / 1.5))
    assert counts.nist() / counts.nist(perl=True) == pytest.approx(ratio)


def test_an_n_gram_counts_as_often_as_in_one_reference():
    # "a" is twice in one reference and once in the other: two of three count, not three.
    assert count([["a a b c", "a d e f"]], ["a a a"]).hits[0] == 2


def test_the_closest_reference_length_and_the_shorter_of_two():
    assert count([["a b", "a b c d e f", "a b c d"]], ["a b c"]).closest_length == 2


@pytest.mark.parametrize("text", ["a b c d", "The Mill is cheap, £20."])
def test_bleu_of_the_reference_itself(text):
    assert count([["x y", text]], [text]).bleu() == pytest.approx(1)


def test_short_and_empty_texts_follow_the_official_counts():
    counts = count([["a b c d e"], ["a"]], ["a b c d e", ""])
    assert counts.totals == [6, 4, 2, 0, -2]  # the empty text: one token, 0, -1, -2, -3
    # One hit of one; then no hits among no n-grams, 1e-15 / 1e-9 for three orders.
    assert count([["a"]], ["a"]).bleu() == pytest.approx(1e-6 ** (3 / 4))
