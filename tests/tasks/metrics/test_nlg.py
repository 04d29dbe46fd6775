import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leff.errors import DataError
from leff.tasks.metrics import java, nlg

# System outputs with the official scorer's figures for each segment by itself, to four digits:
# github.com/tuetschek/e2e-eval, system_outputs/all/tnt/System 1/Primary-Sys1.segscores.tsv.
# That file's BLEU is without smoothing; ours is what mteval-v13a.pl printed for the segment.
# The references are those of the E2E test set (CC BY-SA 4.0).
SEGMENTS = [
    (
        ["Cocum is a pub by The Sorrento."],
        "Cocum is a pub near The Sorrento.",
        {"BLEU": 0.5000, "NIST": 2.6250, "METEOR": 0.4677, "ROUGE_L": 0.8571},
    ),
    (
        [
            "next to The Bakers resides a coffee shop by the name of Cotto.",
            "A coffee shop called Cotto is situated near The Bakers.",
        ],
        "Near The Bakers is Cotto. It is a coffee shop.",
        {"BLEU": 0.2481, "NIST": 2.9739, "METEOR": 0.3674, "ROUGE_L": 0.4248},
    ),
    (
        ["Close to The Sorrento you can find Clowns pub."],
        "Clowns is a pub near The Sorrento.",
        {"BLEU": 0.1082, "NIST": 1.6830, "METEOR": 0.3199, "ROUGE_L": 0.2445},
    ),
]

# The challenge's figures for the template system TUDA on the test set: Dušek, Novikova and
# Rieser, Findings of the E2E NLG Challenge, INLG 2018.  Quoted without the paper's table at hand.
TUDA = {"BLEU": 0.5657, "NIST": 7.4544, "METEOR": 0.4529, "ROUGE_L": 0.6614, "CIDEr": 1.8206}

texts = st.lists(st.sampled_from(["a", "b", "c", "d", ",", "£20", "it's"]), max_size=9).map(
    " ".join
)
inputs = st.lists(st.tuples(st.lists(texts, min_size=1, max_size=3), texts), min_size=1, max_size=4)


def close(value: float | None, official: float) -> bool:
    """Whether a value is an official figure that was rounded to four digits."""
    return value is not None and abs(value - official) < 0.5e-4 + 1e-9


@pytest.mark.parametrize("references, hypothesis, official", SEGMENTS)
def test_published_segments(no_java, references, hypothesis, official):
    values = nlg.score([references], [hypothesis]).values
    for name in ("BLEU", "NIST", "ROUGE_L"):
        assert close(values[name], official[name]), name


@pytest.mark.slow
def test_a_published_segment_with_java(programs):
    references, hypothesis, official = SEGMENTS[1]
    values = nlg.score([references], [hypothesis]).values
    for name, figure in official.items():
        assert close(values[name], figure), name


def test_published_corpus(no_java, e2e_references):
    groups = e2e_references("test")
    values = nlg.score(list(groups.values()), list(map(tuda, groups))).values
    for name in ("BLEU", "NIST", "ROUGE_L", "CIDEr"):
        assert close(values[name], TUDA[name]), name


@pytest.mark.slow
def test_published_corpus_with_java(programs, e2e_references):
    groups = e2e_references("test")
    scores = nlg.score(list(groups.values()), list(map(tuda, groups)))
    assert not scores.notes
    assert list(scores.values) == list(nlg.NAMES)
    for name, figure in TUDA.items():
        assert close(scores.values[name], figure), name


def test_without_java_says_what_is_missing(no_java):
    scores = nlg.score([["a b c d e"], ["f g h i"]], ["a b c d e", "f g h i"])
    assert scores.values["METEOR"] is None
    assert scores.values["ROUGE_L"] == 1
    assert scores.notes == {
        "METEOR": "not computed: no Java here",
        "ROUGE_L": "computed with a Python tokenizer: no Java here",
        "CIDEr": "computed with a Python tokenizer: no Java here",
    }


def test_java_tokens_reach_the_metrics(monkeypatch):
    class Programs:
        def tokenize(self, lines):
            return [[*line.split(), "."] for line in lines]

        def meteor(self, references, hypotheses):
            assert references == [["a b", "c"], ["d"]]
            assert hypotheses == ["a", ""]
            return 0.25

    monkeypatch.setattr(java, "find", Programs)
    scores = nlg.score([["a b", "c"], ["d"]], ["a", ""])
    assert scores.values["METEOR"] == 0.25
    assert not {"METEOR", "ROUGE_L", "CIDEr"} & scores.notes.keys()


@given(inputs)
@settings(deadline=None, max_examples=60)
def test_values_are_finite_and_in_range(corpus):
    references, hypotheses = map(list, zip(*corpus, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(java, "find", lambda: "no Java here")
        values = nlg.score(references, hypotheses).values
        turned = nlg.score([own[::-1] for own in references], hypotheses).values
    limits = {"BLEU": 1, "NIST": math.inf, "ROUGE_L": 1, "CIDEr": 10}
    for name, limit in limits.items():
        value = values[name]
        assert value is not None and math.isfinite(value)
        assert 0 <= value <= limit + 1e-9
        assert value == pytest.approx(turned[name], abs=1e-9)  # the order of references
    assert values["BLEU"] == nlg.bleu(references, hypotheses)


def test_empty_hypotheses_count(no_java):
    references = [["the cat sat on the mat"], ["a dog ran to the park"]]
    full = nlg.score(references, ["the cat sat on the mat", "a dog ran to the park"]).values
    half = nlg.score(references, ["the cat sat on the mat", ""]).values
    none = nlg.score(references, ["", ""]).values
    assert full["BLEU"] == pytest.approx(1)
    assert full["CIDEr"] == pytest.approx(10)
    assert half["ROUGE_L"] == pytest.approx(0.5)
    assert half["CIDEr"] == pytest.approx(5)
    for name in ("BLEU", "NIST", "ROUGE_L", "CIDEr"):
        assert none[name] == pytest.approx(0, abs=1e-4)
        assert none[name] < half[name] < full[name]


@pytest.mark.parametrize("call", [nlg.score, nlg.bleu])
@pytest.mark.parametrize(
    "references, hypotheses, message",
    [
        ([["a"]], ["a", "b"], "references for 1 inputs but 2 hypotheses"),
        ([], [], "nothing to score"),
        ([["a"], []], ["a", "b"], "input 1 has no reference"),
        (["a"], ["a"], "input 0 are one string"),
    ],
)
def test_bad_input(call, references, hypotheses, message):
    with pytest.raises(DataError, match=message):
        call(references, hypotheses)


def tuda(meaning: str) -> str:
    """Say a meaning representation of the test set as the system TUDA did.

    Its outputs are in github.com/tuetschek/e2e-eval, system_outputs/primary/tuda.tsv.
    """
    slots = dict(re.findall(r"(\w[\w ]*)\[([^\]]*)\]", meaning))
    friendly, rating, price = map(slots.get, ("familyFriendly", "customer rating", "priceRange"))
    text = f"{slots['name']} is a {'family-friendly ' * (friendly == 'yes')}{slots['eatType']}"
    places = [f"in the {slots['area']} area"] if "area" in slots else []
    places += [f"near {slots['near']}"] if "near" in slots else []
    has = f"{'an' if rating == 'average' else 'a'} {rating} customer rating"
    if rating and "out of" in rating:
        has = f"a customer rating of {rating}"
    if "food" in slots:
        text += f" which serves {slots['food'].replace('Fast food', 'fast')} food"
        if price:
            kind = price.replace("cheap", "low")
            text += (
                f" in the price range of {kind}" if "£" in kind else f" in the {kind} price range"
            )
        text += f". It {f'has {has} and ' * bool(rating)}is located {', '.join(places)}."
    else:
        text += f" located {', '.join(places)}.{f' It has {has}.' * bool(rating)}"
    return text + " It is not family friendly." * (friendly == "no")
