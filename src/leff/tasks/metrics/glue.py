"""The official metrics of the GLUE tasks, and metrics for a user's own labels.

Wang et al., ICLR 2019, Table 1: Matthews correlation for CoLA, accuracy for SST-2, MNLI, QNLI, RTE
and WNLI, accuracy and F1 of label 1 for MRPC and QQP, Pearson and Spearman correlation for STS-B.

A correlation is not defined if all predictions, or all labels, are the same.  It is reported as
0.0, since such predictions are no better than chance.  All values are fractions, not percentages.

    python -c "from leff.tasks.metrics.glue import score; print(score('rte', [0, 1], [0, 0]))"
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from leff.errors import ConfigError, DataError, nearest

Kind = Literal["classification", "multilabel", "regression"]
Numbers = Sequence[int] | Sequence[float] | np.ndarray

# The one figure of a task that tables and logs show.  Of two official figures, it is the first.
PRIMARY: dict[str, str] = {
    "cola": "matthews",
    "sst2": "accuracy",
    "mrpc": "accuracy",
    "qqp": "accuracy",
    "stsb": "pearson",
    "mnli": "accuracy",
    "qnli": "accuracy",
    "rte": "accuracy",
    "wnli": "accuracy",
}


def score(task: str, predictions: Numbers, labels: Numbers) -> dict[str, float]:
    """Return the official metrics of a GLUE task; ``PRIMARY[task]`` is among the keys.

    `predictions` and `labels` are class numbers, or scores for ``stsb``.

    Raises ConfigError for an unknown task.  Raises DataError if there are no values, numbers that
    differ, a value that is not finite, or a class that is not a whole number.
    """
    if task not in PRIMARY:
        raise ConfigError(f"GLUE has no task {task!r}{nearest(task, PRIMARY)}")
    if task == "stsb":
        _check(predictions, labels, whole=False)
        return _correlations(predictions, labels)
    _check(predictions, labels, whole=True)
    if task == "cola":
        return {"matthews": _matthews(predictions, labels)}
    scores = {"accuracy": _accuracy(predictions, labels)}
    if task in ("mrpc", "qqp"):
        scores["f1"] = _f1_of_one(predictions, labels)
    return scores


def score_labels(kind: Kind, predictions: Any, labels: Any) -> dict[str, float]:
    """Return the metrics of a task that is not part of GLUE.

    - ``classification``: accuracy, and macro_f1 (the mean F1 of all classes that occur among the
      predictions or labels).
    - ``multilabel``, with tables (n, K) of 0 and 1: micro_f1, macro_f1, exact_match (the share of
      rows that are all right), and label_accuracy (the share of cells that are).
    - ``regression``: pearson, spearman, and mse (in squared label units).

    Raises as `score` does.
    """
    if kind == "classification":
        from sklearn.metrics import f1_score

        _check(predictions, labels, whole=True)
        macro = f1_score(labels, predictions, average="macro")
        return {"accuracy": _accuracy(predictions, labels), "macro_f1": float(macro)}
    if kind == "multilabel":
        cells: list[np.ndarray] = [np.array(predictions), np.array(labels)]
        return _score_several(*cells)
    if kind == "regression":
        _check(predictions, labels, whole=False)
        errors = ((p - label) ** 2 for p, label in zip(predictions, labels, strict=True))
        return {**_correlations(predictions, labels), "mse": math.fsum(errors) / len(labels)}
    raise ConfigError(f"labels cannot be of the kind {kind!r}{nearest(kind, get_args(Kind))}")


def _score_several(predictions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score

    if predictions.shape != labels.shape or not labels.size:
        raise DataError(
            f"{predictions.shape} predictions and {labels.shape} labels; give as many of each"
        )
    macro = float(f1_score(labels, predictions, average="macro", zero_division=np.nan))
    return {
        "micro_f1": float(f1_score(labels, predictions, average="micro", zero_division=0)),
        "macro_f1": 0.0 if math.isnan(macro) else macro,
        "exact_match": float((predictions == labels).all(axis=1).mean()),
        "label_accuracy": float((predictions == labels).mean()),
    }


def _accuracy(predictions: Numbers, labels: Numbers) -> float:
    return sum(p == label for p, label in zip(predictions, labels, strict=True)) / len(labels)


def _f1_of_one(predictions: Numbers, labels: Numbers) -> float:
    # sklearn's binary F1 refuses labels other than 0 and 1.
    pairs = list(zip(predictions, labels, strict=True))
    both = sum(p == label == 1 for p, label in pairs)
    one = sum((p == 1) + (label == 1) for p, label in pairs)
    return 2 * both / one if one else 0.0


def _matthews(predictions: Numbers, labels: Numbers) -> float:
    from sklearn.metrics import matthews_corrcoef

    if min(predictions) == max(predictions) or min(labels) == max(labels):
        return 0.0
    return float(matthews_corrcoef(labels, predictions))


def _correlations(predictions: Numbers, labels: Numbers) -> dict[str, float]:
    from scipy.stats import rankdata

    return {
        "pearson": _pearson(predictions, labels),
        "spearman": _pearson(rankdata(predictions), rankdata(labels)),
    }


def _pearson(left: Numbers, right: Numbers) -> float:
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr

    if len(left) < 2:
        return 0.0
    with warnings.catch_warnings():
        for category in (ConstantInputWarning, NearConstantInputWarning):
            warnings.simplefilter("ignore", category)
        correlation = float(np.asarray(pearsonr(left, right))[0])
    return 0.0 if math.isnan(correlation) else correlation


def _check(predictions: Numbers, labels: Numbers, *, whole: bool) -> None:
    if len(predictions) != len(labels):
        raise DataError(
            f"there are {len(predictions)} predictions but {len(labels)} labels; "
            "give one prediction for each label"
        )
    if not len(labels):
        raise DataError("there is nothing to score; give at least one prediction and its label")
    for name, values in (("prediction", predictions), ("label", labels)):
        for place, value in enumerate(values):
            if not math.isfinite(value):
                raise DataError(f"{name} {place} is {value}; only finite numbers can be scored")
            if whole and value != int(value):
                raise DataError(f"{name} {place} is {value}; a class is a whole number")
