"""Losses and metrics from sums that clients measured, equal to those of all examples together.

    pooled(measures).loss                                # the sums of several clients
    figures("classification", pooled(measures))          # {"loss": ..., "accuracy": ..., ...}

Counts and moments add up.  Ranks and texts do not: a metric that needs them is refused by name.
Undefined correlations are 0.0, as in `metrics.glue`.  A model that is not finite scores NaN.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from leff.errors import ConfigError, nearest
from leff.wire.messages import Measure

METRICS: dict[str, tuple[str, ...]] = {  # by kind; the first is the default
    "classification": ("accuracy", "matthews", "f1", "macro_f1"),
    "multilabel": ("micro_f1", "macro_f1", "label_accuracy"),
    "regression": ("pearson", "mse"),
    "generation": ("perplexity",),
    "text": ("perplexity",),
    "chat": ("perplexity",),
}
NOT_SUMS = {
    "spearman": "needs the ranks of all predictions",
    **dict.fromkeys(
        ("BLEU", "NIST", "METEOR", "ROUGE-L", "CIDEr", "TER", "chrF"), "needs the generated texts"
    ),
}


def check_metric(kind: str, metric: str) -> None:
    """Raise ConfigError for a metric that cannot be made of the sums of this kind of task."""
    known = METRICS[kind]
    if metric in known:
        return
    for name, why in NOT_SUMS.items():
        if metric.lower() == name.lower():
            raise ConfigError(
                f"{metric} {why}, which stay on the devices; use {' or '.join(known)}, or let the "
                "server measure (evaluation.where = 'server')"
            )
    raise ConfigError(f"{metric!r} is no metric of kind {kind}{nearest(metric, known)}")


def metrics_of(kind: str, classes: int) -> tuple[str, ...]:
    """Return the metrics of a task, the default first; F1 is of class 1 of two."""
    return tuple(name for name in METRICS[kind] if name != "f1" or classes == 2)


def pooled(measures: Iterable[Measure]) -> Measure:
    """Return the sums over clients, in the order given; it has no loss if one of them has none.

    Failed measurements do not count.  `round` and `client` are those of the first.  Raises
    ValueError if none is left.
    """
    used = [each for each in measures if each.failure is None]
    if not used:
        raise ValueError("no client measured anything")
    losses = [each.loss for each in used if each.loss is not None]
    done = replace(
        used[0],
        examples=sum(each.examples for each in used),
        weight=sum(each.weight for each in used),
        seconds=sum(each.seconds for each in used),
    )
    if len(losses) < len(used):
        return replace(done, loss=None, confusion=(), moments=())
    rows = zip(*(each.confusion for each in used), strict=True)
    return replace(
        done,
        loss=math.fsum(losses),
        confusion=tuple(tuple(map(sum, zip(*row, strict=True))) for row in rows),
        moments=tuple(map(math.fsum, zip(*(each.moments for each in used), strict=True))),
    )


def figures(kind: str, measured: Measure, classes: int = 0) -> dict[str, float]:
    """Return ``loss`` (per label) and every metric of one client's sums, or of pooled ones."""
    names = metrics_of(kind, classes)
    if measured.loss is None or not measured.weight:
        return dict.fromkeys(("loss", *names), math.nan)
    loss = measured.loss / measured.weight
    if kind == "classification":
        values = _class_metrics(measured.confusion)
    elif kind == "multilabel":
        values = _several_metrics(measured.confusion)
    elif kind == "regression":
        values = {"pearson": _pearson(measured.moments), "mse": loss}
    else:
        values = {"perplexity": math.exp(min(loss, 700.0))}
    return {"loss": loss, **{name: values[name] for name in names}}


def _class_metrics(confusion: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the metrics of counts (K, K), rows by label and columns by prediction."""
    total, right = sum(map(sum, confusion)), sum(row[k] for k, row in enumerate(confusion))
    labels = [sum(row) for row in confusion]
    predictions = [sum(column) for column in zip(*confusion, strict=True)]
    f1 = [
        2 * confusion[k][k] / (n + m) if n + m else None
        for k, (n, m) in enumerate(zip(labels, predictions, strict=True))
    ]
    seen = [value for value in f1 if value is not None]  # of classes that occur
    return {
        "accuracy": right / total,
        "matthews": _matthews(total, right, labels, predictions),
        "f1": (f1[1] if len(f1) > 1 else None) or 0.0,
        "macro_f1": sum(seen) / len(seen),
    }


def _several_metrics(counts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return the metrics of counts (K, 4), as `metrics.glue.score_several` defines them."""

    def f1(right: int, missed: int, wrong: int) -> float | None:
        return 2 * right / (2 * right + missed + wrong) if right + missed + wrong else None

    right, missed, wrong, neither = map(sum, zip(*counts, strict=True))
    seen = [value for row in counts if (value := f1(*row[:3])) is not None]
    return {
        "micro_f1": f1(right, missed, wrong) or 0.0,
        "macro_f1": sum(seen) / len(seen) if seen else 0.0,
        "label_accuracy": (right + neither) / sum(map(sum, counts)),
    }


def _matthews(total: int, right: int, labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Return R_K (Gorodkin 2004, eq. 8), the correlation of K classes; MCC for two."""
    expected = sum(n * m for n, m in zip(labels, predictions, strict=True))
    spread = (total**2 - sum(m * m for m in predictions)) * (total**2 - sum(n * n for n in labels))
    return (right * total - expected) / math.sqrt(spread) if spread else 0.0


def _pearson(moments: Sequence[float]) -> float:
    """Return the correlation of n, Σp, Σy, Σp², Σy² and Σpy; 0.0 if one of both is constant."""
    n, p, y, pp, yy, py = moments
    spread_p, spread_y = pp - p * p / n, yy - y * y / n
    if spread_p <= 1e-14 * pp or spread_y <= 1e-14 * yy:  # what rounding leaves of nothing
        return 0.0
    return max(-1.0, min(1.0, (py - p * y / n) / math.sqrt(spread_p * spread_y)))
