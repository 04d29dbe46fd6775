"""Sums over clients give the figures of all rows together, as sklearn and scipy compute them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from leff.errors import ConfigError
from leff.tasks.metrics import glue
from leff.tasks.metrics.sums import METRICS, check_metric, figures, metrics_of, pooled
from leff.wire.messages import Measure

ROWS = st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1), min_size=1)


def counted(rows, classes):
    labels, predictions = zip(*rows, strict=True)
    cells = confusion_matrix(labels, predictions, labels=range(classes))
    confusion = tuple(tuple(map(int, row)) for row in cells)
    return Measure(0, 0, len(rows), 0.5 * len(rows), len(rows), confusion)


def scored(pairs):
    p, y = (np.array(side, dtype=np.float64) for side in zip(*pairs, strict=True))
    moments = (len(p), p.sum(), y.sum(), (p * p).sum(), (y * y).sum(), (p * y).sum())
    return Measure(
        0, 0, len(p), float(((p - y) ** 2).sum()), len(p), (), tuple(map(float, moments))
    )


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_counts_of_clients_give_the_metrics_of_all_rows(clients):
    found = figures("classification", pooled([counted(rows, 3) for rows in clients]), 3)
    labels, predictions = zip(*(row for rows in clients for row in rows), strict=True)
    assert found["loss"] == pytest.approx(0.5)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    wanted = 0.0 if len(set(labels)) < 2 else matthews_corrcoef(labels, predictions)
    assert found["matthews"] == pytest.approx(wanted, abs=1e-12)
    macro = f1_score(labels, predictions, average="macro")
    assert found["macro_f1"] == pytest.approx(macro) and "f1" not in found


@pytest.mark.parametrize("seed", range(4))
def test_f1_of_class_one_is_glues(seed):
    labels, predictions = np.random.default_rng(seed).integers(0, 2, (2, 40)).tolist()
    both = counted(list(zip(labels, predictions, strict=True)), 2)
    wanted = glue.score("mrpc", predictions, labels)
    assert figures("classification", both, 2)["f1"] == pytest.approx(wanted["f1"])
    never = counted([(0, 0)], 2)
    assert figures("classification", never, 2)["f1"] == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(1, 5), st.sampled_from([0.0, 3.0, 1e3]), st.integers(0, 9))
def test_moments_of_clients_give_the_correlation_of_all_rows(rows, clients, centre, seed):
    rng = np.random.default_rng(seed)
    pairs = [(float(p), float(y)) for p, y in rng.normal(centre, 1.0, (rows, 2)).astype("f4")]
    parts = [pairs[i::clients] for i in range(min(clients, rows))]
    found = figures("regression", pooled(map(scored, parts)))
    p, y = zip(*pairs, strict=True)
    assert found["pearson"] == pytest.approx(pearsonr(p, y).statistic, abs=1e-6)
    assert found["mse"] == found["loss"] == pytest.approx(np.mean((np.array(p) - np.array(y)) ** 2))


def test_what_is_constant_has_no_correlation():
    assert figures("regression", scored([(0.1, 1.0), (0.1, 2.0), (0.1, 4.0)]))["pearson"] == 0.0
    assert figures("regression", scored([(1.0, 0.3), (2.0, 0.3)]))["pearson"] == 0.0
    assert figures("regression", scored([(1.0, 2.0)]))["pearson"] == 0.0


def test_losses_are_weighted_by_labels():
    short, long = Measure(0, 0, 1, 4.0, 2), Measure(0, 1, 9, 6.0, 8)
    found = figures("text", pooled([short, long]))
    assert found == {"loss": 1.0, "perplexity": math.e}


def test_a_model_that_is_not_finite_is_a_figure_and_a_failure_is_none():
    good, gone = counted([(0, 1)], 2), replace(counted([(1, 1)], 2), loss=None, confusion=())
    found = figures("classification", pooled([good, gone]), 2)
    assert found.keys() == {"loss", *metrics_of("classification", 2)}
    assert all(map(math.isnan, found.values()))
    failed = Measure(0, 2, 5, failure="out of memory")
    assert pooled([good, failed]) == good
    with pytest.raises(ValueError, match="no client measured"):
        pooled([failed])


@pytest.mark.parametrize(
    ("kind", "metric", "said"),
    [
        ("regression", "spearman", "spearman needs the ranks of all predictions.*pearson or mse"),
        ("generation", "bleu", "bleu needs the generated texts.*use perplexity"),
        ("classification", "acuracy", "did you mean 'accuracy'"),
    ],
)
def test_a_metric_that_cannot_be_added_up_is_refused_by_name(kind, metric, said):
    with pytest.raises(ConfigError, match=said):
        check_metric(kind, metric)
    for known in METRICS[kind]:
        check_metric(kind, known)
