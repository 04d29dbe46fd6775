import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from leff.errors import ConfigError, DataError
from leff.tasks.metrics.glue import PRIMARY, score, score_labels

binary = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=20)
numbers = st.floats(-1e3, 1e3, allow_subnormal=False)
ratings = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20)


@pytest.mark.parametrize("task", PRIMARY)
def test_the_primary_metric_of_a_perfect_answer_is_one(task):
    labels = [0, 1, 1, 0, 1]
    scores = score(task, labels, labels)
    assert scores[PRIMARY[task]] == pytest.approx(1)


def test_the_keys_are_the_official_metrics():
    keys = {task: tuple(score(task, [0, 1], [0, 1])) for task in PRIMARY}
    assert keys == {
        "cola": ("matthews",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
        **dict.fromkeys(("sst2", "mnli", "qnli", "rte", "wnli"), ("accuracy",)),
    }


def test_by_hand():
    # 3 true positives, 1 false positive, 1 false negative, 2 true negatives.
    predictions, labels = [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 1, 0, 0]
    assert score("mrpc", predictions, labels) == pytest.approx({"accuracy": 5 / 7, "f1": 3 / 4})
    matthews = (3 * 2 - 1 * 1) / math.sqrt(4 * 4 * 3 * 3)
    assert score("cola", predictions, labels)["matthews"] == pytest.approx(matthews)
    stsb = score("stsb", [1.0, 2.0, 4.0], [1.0, 3.0, 5.0])
    assert stsb["spearman"] == pytest.approx(1)
    assert stsb["pearson"] == pytest.approx(6 / math.sqrt(14 / 3 * 8))


def test_accuracy_of_three_classes():
    assert score("mnli", [0, 1, 2, 2], [0, 1, 1, 2]) == {"accuracy": 0.75}


@given(binary)
@settings(deadline=None)
def test_f1_is_sklearns(pairs):
    predictions, labels = zip(*pairs, strict=True)
    expected = f1_score(labels, predictions, zero_division=0.0)
    assert score("qqp", predictions, labels)["f1"] == pytest.approx(expected)


@given(ratings)
@settings(deadline=None)
def test_correlations_are_numbers_and_spearman_is_scipys(pairs):
    predictions, labels = zip(*pairs, strict=True)
    scores = score("stsb", predictions, labels)
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in scores.values())
    if len(set(predictions)) > 1 and len(set(labels)) > 1:
        expected = spearmanr(predictions, labels).statistic
        assert scores["spearman"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("predictions, labels", [([1, 1], [0, 1]), ([0, 1], [1, 1]), ([1], [1])])
def test_an_undefined_correlation_is_zero(predictions, labels):
    assert score("cola", predictions, labels) == {"matthews": 0.0}
    assert score("stsb", predictions, labels) == {"pearson": 0.0, "spearman": 0.0}


def test_almost_constant_predictions_do_not_warn():
    assert math.isfinite(score("stsb", [1.0, 1.0 + 1e-15, 1.0], [0.0, 1.0, 2.0])["pearson"])


def test_arrays_are_taken():
    assert score("rte", np.array([0, 1]), np.array([0, 0])) == {"accuracy": 0.5}


def test_own_labels():
    # Class F1: 2/3, 1/2 and 0; class 2 occurs among the predictions only.
    scores = score_labels("classification", [0, 0, 1, 2], [0, 1, 1, 1])
    assert scores == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3})
    scores = score_labels("regression", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert scores == pytest.approx({"pearson": 1, "spearman": 1, "mse": 14 / 3})


def test_unknown_names():
    with pytest.raises(ConfigError, match=r"no task 'sst-2'; did you mean 'sst2'\?"):
        score("sst-2", [1], [1])
    with pytest.raises(ConfigError, match=r"'regresion'; did you mean 'regression'\?"):
        score_labels("regresion", [1], [1])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "predictions, labels, message",
    [
        ([1, 0], [1], "2 predictions but 1 labels"),
        ([], [], "nothing to score"),
        ([1, math.nan], [1, 0], "prediction 1 is nan"),
        ([1, 0], [math.inf, 0], "label 0 is inf"),
    ],
)
def test_bad_values(predictions, labels, message):
    for call in (
        lambda: score("rte", predictions, labels),
        lambda: score("stsb", predictions, labels),
        lambda: score_labels("classification", predictions, labels),
        lambda: score_labels("regression", predictions, labels),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_a_class_is_a_whole_number():
    with pytest.raises(DataError, match=r"prediction 0 is 0.5; a class is a whole number"):
        score("rte", [0.5], [1])
