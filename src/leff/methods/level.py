"""A head's bias, put right after the merge by what the model answers and what clients' labels are.

    step = head_step(measures, sizes, classes=2)  # of each class; None if nobody answered
    move_head(model, step, proxy)

If most clients hold one label, each pushes its own, and the label with more or larger clients wins:
the merged model tells the classes apart, and yet always answers the same one.  So clients say what
the merged model answers on average to `PROBE` of their examples, and what the labels are.  The step
is the one after which both agree, in the means over clients weighted by D_i.

For a classifier the mean of softmax(z + b) shall be the labels' shares q.  That bias has the least
cross-entropy.  But where the model is unsure, near q for every text, all texts would get the larger
class.  So answers are sharpened there (`leff.client.measure.sharpness`), and it is the share of
texts with a class that becomes q.  Clients send, for each label, the mean answer as a function of
an offset of its own logit (`OFFSETS`).  Between two offsets the log odds are taken as linear.  The
offset at which label k has its share is o_k, and

    b_k <- b_k + (K - 1) / K o_k ,   less the mean over k

is exact for two labels, where o_0 = -o_1.  For a regression b <- b + mean label - mean answer.
Saerens et al. (2002) correct a bias for new labels so; the rest is our own.  The server needs the
means only.

With more labels, few of the texts have each, and chance alone would move all.  So the share that a
label is moved to is nearer to the mean answer, by sqrt(2 log(K - 1)) deviations of a share of that
many texts (the threshold of Donoho and Johnstone 1994, of K - 1 free steps).  If the texts of a
round have one label alone, nothing is moved: they tell nothing of the others.

A head without a bias, as GPT-2's and Llama's, gets the same step on average: its weights move along
the mean h of what goes into it on proxy data, W_k <- W_k + step_k * h / |h|^2.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from leff.methods.stand_ins import Batch
from leff.models import full_tail_names
from leff.models.kinds import LEVELLED_KINDS
from leff.wire.messages import FEWEST_HELD_OUT, OFFSETS, Capacity, Measure

PROBE = 32  # examples of a client that the model answers
LEAST = 1e-4  # share that a label has at least, so that a step is finite


def classifier_head(model: Any) -> nn.Linear | None:
    """Return the last linear module of a classifier or a regression, whose output is the answer."""
    paths = {name.rpartition(".")[0] for name in full_tail_names(model)}
    heads = [
        module
        for path, module in model.named_modules()
        if path in paths and isinstance(module, nn.Linear)
    ]
    return heads[-1] if heads and heads[-1].out_features == model.config.num_labels else None


def bias_of(head: nn.Linear) -> nn.Parameter | None:
    """Return a linear module's bias, or None if it has none."""
    return cast(Any, head).bias


def needs_proxy(model: Any, kind: str) -> bool:
    """Return whether a model's head can be moved on proxy data only."""
    head = classifier_head(model) if kind in LEVELLED_KINDS else None
    return head is not None and bias_of(head) is None


def head_step(
    measures: Iterable[Measure], sizes: Mapping[int, int], classes: int
) -> torch.Tensor | None:
    """Return the step of each class, (K,), or of a regression, (1,); None without answers.

    `sizes` has each client's D_i, and `classes` is K, or 0 for a regression.  What failed does not
    count.
    """
    used = [each for each in measures if each.failure is None and each.answers]
    if not used:
        return None
    weights = np.array([sizes[each.client] for each in used], dtype=float)
    weights /= weights.sum()

    def mean(values: Sequence[Any]) -> np.ndarray:
        return np.average(np.array(values), axis=0, weights=weights)

    labels = mean([each.labels for each in used])
    answers = mean([each.answers for each in used])
    if not classes:
        return torch.tensor(labels - answers[0])
    if labels.max() > 1 - LEAST:
        return None
    texts = 1 / np.sum(weights**2 / [max(1, each.weight) for each in used])
    shares = _beyond_chance(answers[:, OFFSETS.index(0.0)], labels, texts)
    offsets = np.array([_offset(own, share) for own, share in zip(answers, shares, strict=True)])
    step = (classes - 1) / classes * offsets
    return torch.tensor(step - step.mean())


def _beyond_chance(answers: np.ndarray, labels: np.ndarray, texts: float) -> np.ndarray:
    """Return the share of each label, (K,), that its mean answer is to be moved to.

    `texts` is how many texts of equal weight the means are of.
    """
    likely = np.maximum(answers * (1 - answers), labels * (1 - labels))
    deviation = np.sqrt(np.maximum(likely, 1 / texts) / texts)
    threshold = np.sqrt(2 * np.log(len(labels) - 1)) * deviation
    away = labels - answers
    return answers + np.sign(away) * np.maximum(np.abs(away) - threshold, 0)


def probe_pool(report: Capacity) -> int:
    """Return how many examples a client's probe is drawn from: those held out, if enough."""
    return report.validation if report.validation >= FEWEST_HELD_OUT else report.examples


def probed(report: Capacity) -> int:
    """Return how many of a client's examples the model answers."""
    return min(PROBE, probe_pool(report))


def _offset(answers: np.ndarray, share: float) -> float:
    """Return the offset at which a label's mean answer, one for each of `OFFSETS`, is its share."""
    odds = np.maximum.accumulate(_log_odds(answers, 1e-12))
    return float(np.interp(_log_odds(np.array(share), LEAST), odds, OFFSETS))


def _log_odds(shares: np.ndarray, least: float) -> np.ndarray:
    kept = shares.clip(least, 1 - least)
    return np.log(kept) - np.log1p(-kept)


@torch.no_grad()
def move_head(model: nn.Module, step: torch.Tensor, proxy: Sequence[Batch] = ()) -> bool:
    """Move the head's outputs by a step, and return whether it could be done.

    `proxy` has batches without labels, for a head without a bias; without them it stays.
    """
    head = classifier_head(model)
    bias = None if head is None else bias_of(head)
    if bias is not None:
        bias += step.to(bias)
    elif head is not None and proxy:
        into = mean_input(model, head, proxy)
        head.weight += torch.outer(step.to(into), into / into.square().sum()).to(head.weight)
    else:
        return False
    return True


def mean_input(model: Any, head: nn.Linear, batches: Sequence[Batch]) -> torch.Tensor:
    """Return the mean of what goes into a head on these batches, (d,), in float64.

    It is the gradient of the mean logit, so it is of those positions alone whose logits count.
    """
    was_training, trained = model.training, head.weight.requires_grad
    model.eval()
    head.weight.requires_grad_(True)
    total, count = torch.zeros(head.in_features, dtype=torch.float64), 0
    try:
        with torch.enable_grad():
            for batch in batches:
                logits = model(**batch).logits
                (own,) = torch.autograd.grad(logits[:, 0].sum(), head.weight)
                total, count = total + own[0].cpu().double(), count + len(logits)
    finally:
        model.train(was_training)
        head.weight.requires_grad_(trained)
    return total / count
