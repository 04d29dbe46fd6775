"""The training steps of a client's round (PAPER Sec. 3.4), with their losses and layer scores.

done = local_steps(model, trained, job, examples, device)
done.losses, done.layer_scores, done.state_bytes
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from leff.client.deadline import Deadline
from leff.client.memory import state_bytes
from leff.client.model import trained_layers
from leff.models import blocks, uncached
from leff.models.checkpointing import recompute
from leff.models.losses import label_count, mean_loss
from leff.models.optimizer import make_optimizer
from leff.seeds import numpy_rng
from leff.tasks.encode import Example, collate
from leff.wire.messages import Job, Step

WINDOW = 8  # batches whose examples are sorted by length together (our choice)


@dataclass(frozen=True)
class Steps:
    """Each step's loss (nats), each trained layer's importance, and the bytes of the last step.

    If the steps ended early, `failure` says why, and all but `losses` is empty.  `late` says that
    the deadline ended them, and not the examples.
    """

    losses: Sequence[float] = ()
    layer_scores: tuple[float, ...] = ()
    state_bytes: int = 0
    failure: str | None = None
    late: bool = False


def local_steps(
    model: nn.Module,
    trained: Sequence[nn.Parameter],
    job: Job,
    examples: Sequence[Example],
    device: torch.device,
    deadline: Deadline | None = None,
) -> Steps:
    """Train `trained` in place on the batches of the job's epochs.  Do not use the model again.

    After the deadline no step is begun.
    """
    settings = job.training
    if not examples:
        return Steps(failure="the client has no examples")
    optimizer = make_optimizer(
        settings.step.optimizer, trained, settings.learning_rate, settings.weight_decay
    )
    if settings.step.checkpointing:
        recompute(model)
    log_prior = _log_prior(model, job, examples, device)
    start = [parameter.detach().clone() for parameter in trained] if settings.step.proximal else []
    layers = [list(blocks(model)[layer].parameters()) for layer in trained_layers(job)]
    losses: list[float] = []
    scores = np.zeros(len(layers))
    for batch in batches(examples, job, device):
        if deadline is not None and deadline.passed:
            if losses and deadline.partial:
                break
            wanted = step_count(job.training.epochs, settings.step.batch_size, len(examples))
            late = f"the deadline passed after {len(losses)} of {wanted} steps"
            return Steps(losses, failure=late, late=True)
        optimizer.zero_grad(set_to_none=True)
        losses.append(_add_gradients(model, batch, settings.step, log_prior))
        if not math.isfinite(losses[-1]):
            return Steps(losses, failure=f"the loss was {losses[-1]} at step {len(losses)}")
        scores += _step_scores(layers)
        _pull_back(trained, start, settings.step.proximal)
        nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
    means = tuple((scores / len(losses)).tolist()) if losses else ()
    return Steps(losses, means, state_bytes(model, optimizer))


def _add_gradients(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    step: Step,
    log_prior: torch.Tensor | None,
) -> float:
    """Add the gradient of the batch's mean loss, and return that loss.

    The batch is split into `step.accumulation` parts.  Each part is weighted by its number of
    labels, so the sum is the whole batch's mean.
    """
    labels, total = label_count(batch["labels"]), 0.0
    size = step.batch_size // step.accumulation
    for first in range(0, len(batch["labels"]), size):
        part = {name: value[first : first + size] for name, value in batch.items()}
        share = label_count(part["labels"]) / labels if labels else 1.0
        if share:  # a mean over zero labels is NaN
            loss = share * _loss(model, part, step.precision == "bfloat16", log_prior)
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            total += float(loss.detach())
    return total


def _loss(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    half: bool,
    log_prior: torch.Tensor | None,
) -> torch.Tensor:
    """Return the batch's mean loss in fp32; with `half` matrix products are in bfloat16."""
    labels = batch["labels"]
    with torch.autocast(labels.device.type, torch.bfloat16, enabled=half):
        if log_prior is None:
            return mean_loss(model, batch)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        logits = model(**inputs, **uncached(model)).logits
    return functional.cross_entropy(logits.float() + log_prior, labels)  # (B, K), (B,)


def _log_prior(
    model: Any, job: Job, examples: Sequence[Example], device: torch.device
) -> torch.Tensor | None:
    """Return log π_k = log (n_k + 1) / (n + K) of the client's own labels, (K,), if calibrated.

    Adding log π to the logits is logit adjustment (Menon et al. 2021, eq. 10, τ = 1).  Federated
    learning uses it against label skew (FedLC, Zhang et al. 2022).  Add-one smoothing is ours.  So
    is the least share of examples that are not of the most frequent label: with nearly one label
    alone this loss has nearly no gradient, and AdamW makes full steps of it.
    """
    if not job.training.calibrated or job.kind != "classification":
        return None
    counts = np.bincount([int(e.number) for e in examples], minlength=model.config.num_labels)
    if (counts.sum() - counts.max()) / counts.sum() < job.training.calibrated_from:
        return None
    prior = (counts + 1) / (counts + 1).sum()
    return torch.tensor(np.log(prior), dtype=torch.float32, device=device)


def _step_scores(layers: Sequence[Sequence[nn.Parameter]]) -> list[float]:
    """Return Σ (g · θ)² of each layer: I_l of Sec. 3.2 with this step's gradient."""
    sums = [
        torch.stack([(p.grad * p.detach()).square().sum() for p in layer if p.grad is not None])
        for layer in layers
    ]
    return [float(total) for total in torch.stack([each.sum() for each in sums])] if sums else []


def _pull_back(
    trained: Sequence[nn.Parameter], start: Sequence[torch.Tensor], strength: float
) -> None:
    """Add μ (θ - θ_start) to the gradients: FedProx's term μ/2 |θ - θ_start|² (Li et al. 2020)."""
    for parameter, before in zip(trained, start, strict=False):  # `start` is empty without μ
        if parameter.grad is not None:
            parameter.grad.add_(parameter.detach() - before, alpha=strength)


def batches(
    examples: Sequence[Example], job: Job, device: torch.device
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of the local epochs, each epoch in a different order."""
    batch_size = job.training.step.batch_size
    epoch_steps = math.ceil(len(examples) / batch_size)
    steps = step_count(job.training.epochs, batch_size, len(examples))
    lengths = np.array([len(example.input_ids) for example in examples])
    for epoch in range(math.ceil(steps / epoch_steps)):
        rng = numpy_rng(job.seed, "order", epoch)
        orders = like_length_batches(lengths, batch_size, rng)
        for order in orders[: steps - epoch * epoch_steps]:
            batch = collate([examples[int(i)] for i in order], job.pad_id)
            yield {name: value.to(device) for name, value in batch.items()}


def step_count(epochs: float, batch_size: int, examples: int) -> int:
    """Return the number of steps in `epochs` epochs of `examples` examples."""
    return math.ceil(round(epochs * math.ceil(examples / batch_size), 9))  # 0.14 · 50 is above 7


def like_length_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the indices of one epoch's batches, in random order, with similar lengths in each.

    A random order is cut into windows of `WINDOW` batches, and each window is sorted by length to
    save padding.  Every index comes once.  One batch may be shorter, at any place.
    """
    order = rng.permutation(len(lengths))
    cut: list[np.ndarray] = []
    for first in range(0, len(order), WINDOW * batch_size):
        window = order[first : first + WINDOW * batch_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        cut += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [cut[i] for i in rng.permutation(len(cut))]
