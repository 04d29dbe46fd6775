"""One client's measurement of a model on its own held-out examples: a pure function.

    measure(job, store.get, examples, device).loss       # a sum, which adds up over clients
    measure(probe, store.get, examples, device).answers  # to some of the examples, on average

The server turns the sums of all clients into losses and metrics (`leff.tasks.metrics.sums`), which
are those of all their examples together.  No text and no single prediction leaves the client.
"""

import gc
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from leff.client.deadline import Deadline
from leff.client.memory import is_out_of_memory
from leff.client.model import Fetch, client_model
from leff.errors import LeffError
from leff.models import blocks
from leff.models.hardware import give_back, wide
from leff.models.kinds import LABEL_KINDS
from leff.seeds import numpy_rng
from leff.tasks.encode import Example
from leff.tasks.held_out import held_out_logits, held_out_sum
from leff.wire.messages import FEWEST_HELD_OUT, OFFSETS, Measure, MeasureJob

log = logging.getLogger("leff.client")

LEAST_SPREAD = 0.01  # of log odds: answers that are all alike are sharpened no further


def measure(
    job: MeasureJob,
    fetch: Fetch,
    examples: Sequence[Example],
    device: torch.device,
    deadline: Deadline | None = None,
) -> Measure:
    """Measure the job's model on a client's own examples.

    A model that is not finite is a measurement without a loss, or without answers.  Without
    examples there is a failure.  Nothing is raised for either.  Raises TimeoutError once the
    deadline has passed: some of the examples are no measurement of all.
    """
    started = time.perf_counter()
    done = Measure(job.round, job.client, len(examples))
    if not examples:
        kind = "" if job.probe else "validation "
        return replace(done, failure=f"the client has no {kind}examples")
    model = client_model(job, fetch, device)
    if deadline is not None:
        blocks(model)[0].register_forward_pre_hook(_checking(deadline))
    if job.probe:
        done = _answers(done, job, model, examples)
    elif job.kind in LABEL_KINDS:
        logits = held_out_logits(model, examples, batch_size=job.batch_size, pad_id=job.pad_id)
        labels = [example.label for example in examples]
        done = replace(done, weight=len(examples))
        if torch.isfinite(logits).all():
            done = SUMS[job.kind](done, wide(logits), labels)
    else:
        loss, weight = held_out_sum(model, examples, batch_size=job.batch_size, pad_id=job.pad_id)
        done = replace(done, loss=loss if math.isfinite(loss) else None, weight=weight)
    return replace(done, seconds=time.perf_counter() - started)


def examples_of(
    job: MeasureJob, train: Sequence[Example], validation: Sequence[Example]
) -> Sequence[Example]:
    """Return which of a client's examples a job is about."""
    few = job.probe and len(validation) < FEWEST_HELD_OUT
    return train if few else validation


def _answers(
    done: Measure, job: MeasureJob, model: nn.Module, examples: Sequence[Example]
) -> Measure:
    """Add what the model answers to some of the examples, and what their labels are."""
    rows = numpy_rng(job.seed, "probe").permutation(len(examples))[: job.probe]
    chosen = [examples[int(row)] for row in rows]
    logits = wide(held_out_logits(model, chosen, batch_size=job.batch_size, pad_id=job.pad_id))
    done = replace(done, weight=len(chosen))
    if not torch.isfinite(logits).all():
        return done
    if job.kind == "regression":
        labels = sum(example.number for example in chosen) / len(chosen)
        return replace(done, answers=((float(logits.mean()),),), labels=(float(labels),))
    margins = [log_odds(logits, label) for label in range(logits.shape[1])]
    counts = np.bincount([int(e.number) for e in chosen], minlength=logits.shape[1])
    return replace(
        done,
        answers=tuple(
            tuple(
                float(((margin + offset) / sharpness(margin)).sigmoid().mean())
                for offset in OFFSETS
            )
            for margin in margins
        ),
        labels=tuple((counts / len(chosen)).tolist()),
    )


def sharpness(margins: torch.Tensor) -> torch.Tensor:
    """Return by what log odds (n,) are divided before their answers' mean is taken, at most 1.

    It is half their deviation.  If the labels' share is .55, a model that is unsure answers about
    .55 to each text: its mean answer is right, and its class is the same for every text.  With
    divided log odds it is the share of texts with that class which becomes .55.
    """
    return (margins.std(correction=0) / 2).clamp(LEAST_SPREAD, 1.0)


def log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """Return log p - log (1 - p) of a label, (n,), for logits (n, K) and p their softmax."""
    others = torch.cat((logits[:, :label], logits[:, label + 1 :]), dim=1)
    return logits[:, label] - others.logsumexp(-1)


def _checking(deadline: Deadline) -> Callable[[nn.Module, Any], None]:
    def check(_module: nn.Module, _inputs: Any) -> None:
        deadline.check()

    return check


def _class_sums(done: Measure, logits: torch.Tensor, labels: Sequence[Any]) -> Measure:
    """Add the loss and the confusion counts of logits (n, K)."""
    wanted, count = torch.tensor(labels, dtype=torch.long), logits.shape[1]
    loss = float(functional.cross_entropy(logits, wanted, reduction="sum"))
    cells = torch.bincount(wanted * count + logits.argmax(-1), minlength=count**2)
    rows = cells.view(count, count).numpy()
    return replace(done, loss=loss, confusion=tuple(tuple(map(int, row)) for row in rows))


def _several_sums(done: Measure, logits: torch.Tensor, labels: Sequence[Any]) -> Measure:
    """Add the loss, a mean over classes, and each class's four counts, of logits (n, K)."""
    wanted = torch.tensor(labels, dtype=logits.dtype)  # (n, K)
    loss = float(functional.binary_cross_entropy_with_logits(logits, wanted)) * len(labels)
    has, got = wanted > 0, logits > 0
    counts = torch.stack([has & got, has & ~got, ~has & got, ~has & ~got]).sum(1).T  # (K, 4)
    return replace(done, loss=loss, confusion=tuple(tuple(map(int, row)) for row in counts.numpy()))


def _score_sums(done: Measure, logits: torch.Tensor, labels: Sequence[Any]) -> Measure:
    """Add the squared errors and the moments of scores (n, 1)."""
    scores = list(map(float, logits[:, 0]))
    pairs = list(zip(scores, labels, strict=True))
    moments = (
        float(len(pairs)),
        math.fsum(scores),
        math.fsum(labels),
        math.fsum(p * p for p in scores),
        math.fsum(y * y for y in labels),
        math.fsum(p * y for p, y in pairs),
    )
    return replace(done, loss=math.fsum((p - y) ** 2 for p, y in pairs), moments=moments)


SUMS = {
    "classification": _class_sums,
    "multilabel": _several_sums,
    "regression": _score_sums,
}


def measure_or_fail(
    job: MeasureJob,
    fetch: Fetch,
    examples: Sequence[Example],
    device: torch.device,
    deadline: Deadline | None = None,
) -> Measure:
    """Measure, and return any error on the client as its type's name.

    A LeffError is raised instead, since the server or the request is at fault.
    """
    try:
        return measure(job, fetch, examples, device, deadline)
    except LeffError:
        raise
    except TimeoutError:
        failure = "the deadline passed while it measured"
    except Exception as error:
        log.warning("client %d could not measure", job.client, exc_info=True)
        failure = f"it failed with {type(error).__name__}"
        if is_out_of_memory(error):
            failure = "out of memory while it measured"
    gc.collect()  # the error is gone now, so its tensors can be freed
    give_back(device)
    return Measure(job.round, job.client, len(examples), failure=failure)
