"""A head's bias, put right after the merge by what the clients' models answer and what they should.

    step = level(model, updates)          # the step of each class; () if nothing was moved

If most clients hold one label, each pushes its own, and the label with more or larger clients wins:
the merged model tells the classes apart, and yet always answers the same one.  Before it trains, a
client says what the model that it got answers on average to `client.steps.PROBE` of its examples,
p_i, and what its labels are on average, q_i.  With the means over clients, weighted by D_i,

    b_k <- b_k + log q_k - log p_k ,   less the mean over k       for a classifier
    b   <- b + q - p                                              for a regression

The first is one step of Saerens et al. (2002, "Adjusting the outputs of a classifier to new a
priori probabilities").  It corrects the model at the start of the round; what this round did is
corrected in the next.  The server needs the two means only.  Source: our own.

A head without a bias, as GPT-2's and Llama's, gets the same step on average: its weights move along
the mean h of what goes into it on proxy data, W_k <- W_k + step_k * h / |h|^2.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from leff.methods.stand_ins import Batch
from leff.models import full_tail_names
from leff.models.kinds import LABEL_KINDS
from leff.wire.messages import Job, Update

LEAST = 1e-4  # probability that a label has at least, so that a step is finite


def answer_size(model: Any, job: Job) -> int:
    """Return how many numbers a mean answer of this job has; 0 if none is asked for."""
    if not job.training.levelled:
        return 0
    return {"classification": int(model.config.num_labels), "regression": 1}.get(job.kind, 0)


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
    head = classifier_head(model) if kind in LABEL_KINDS else None
    return head is not None and bias_of(head) is None


def step_of(updates: Iterable[Update]) -> torch.Tensor | None:
    """Return the step of each class, (K,), or of a regression, (1,); None without reports."""
    reports = [
        (each.examples, each.answers, each.labels) for each in updates if each.failure is None
    ]
    reports = [each for each in reports if each[1] and each[2]]
    if not reports:
        return None
    weights = np.array([each[0] for each in reports], dtype=np.float64)
    answers, labels = (
        torch.tensor(np.average([each[place] for each in reports], axis=0, weights=weights))
        for place in (1, 2)
    )
    if len(answers) == 1:
        return labels - answers
    step = labels.clamp(min=LEAST).log() - answers.clamp(min=LEAST).log()
    return step - step.mean()


@torch.no_grad()
def level(model: Any, updates: Iterable[Update], proxy: Sequence[Batch] = ()) -> tuple[float, ...]:
    """Move the head of the merged model by the step of a round's reports, and return the step.

    `proxy` has batches without labels, for a head without a bias; without them it stays.
    """
    step, head = step_of(updates), classifier_head(model)
    if step is None or head is None:
        return ()
    bias = bias_of(head)
    if bias is not None:
        bias += step.to(bias)
    elif proxy:
        into = mean_input(model, head, proxy)
        head.weight += torch.outer(step.to(into), into / into.square().sum()).to(head.weight)
    else:
        return ()
    return tuple(map(float, step))


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
                total, count = total + own[0].double().cpu(), count + len(logits)
    finally:
        model.train(was_training)
        head.weight.requires_grad_(trained)
    return total / count
