"""Measured on the server: how far a client's small model misleads its training.

    gap = plug_in_gap(model, job, update, store.get, validation, batch_size=16, device=device)
    gap.gap          # nats: the full model's loss minus the client model's
    gradient_error(model, job, store.get, validation, batch_size=16, device=device)      # Δ²

A client trains its block between stand-ins (PAPER Sec. 3.3).  What it gains there may be lost in
the full model.  Only the server has the full model and validation data to measure this.  Call these
functions before the merge: `model` is the one that the job was made from.  One client model is in
memory beside it.  `model` is left unchanged, to the bit.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from leff.client.model import Fetch, client_model, trainable_parameters, trained_layers
from leff.models.forward import undisturbed
from leff.models.losses import label_count, mean_loss
from leff.tasks.encode import Example
from leff.tasks.held_out import held_out_batches, held_out_loss
from leff.wire.messages import Job, Update
from leff.wire.tensors import unpack


@dataclass(frozen=True)
class Gap:
    """Mean losses (nats) before and after one client's training, in two models."""

    client: int
    layers: tuple[int, ...]
    stand_in_before: float  # the client's model, as sent
    stand_in_after: float  # the client's model, trained
    full_before: float  # the full model
    full_after: float  # the full model with this client's block and tail, and no other's

    @property
    def gap(self) -> float:
        """The full model's loss minus the client model's, both after training."""
        return self.full_after - self.stand_in_after


def plug_in_gap(
    model: nn.Module,
    job: Job,
    update: Update,
    fetch: Fetch,
    examples: Sequence[Example],
    batch_size: int,
    device: torch.device,
) -> Gap:
    """Return the losses of client model and full model, before and after the client's training.

    The loss is `held_out_loss` in fp32, without what training adds to it.  Source: our own.
    Raises ValueError if the update failed, or is not of the job's block and tail.
    """
    if update.failure is not None:
        raise ValueError(f"the update of client {update.client} failed: {update.failure}")
    trained, pad_id = unpack(update.payload), job.pad_id

    def losses(model: nn.Module, positions: Mapping[int, int]) -> tuple[float, float]:
        before = held_out_loss(model, examples, batch_size=batch_size, pad_id=pad_id)
        with plugged_in(trainable_parameters(model, positions), trained):
            return before, held_out_loss(model, examples, batch_size=batch_size, pad_id=pad_id)

    # the client model is freed as soon as its losses are computed
    stand_in_before, stand_in_after = losses(client_model(job, fetch, device), trained_layers(job))
    with undisturbed(model):
        before, after = losses(model, {layer: layer for layer in job.block})
    return Gap(update.client, update.layers, stand_in_before, stand_in_after, before, after)


def gradient_error(
    model: nn.Module,
    job: Job,
    fetch: Fetch,
    examples: Sequence[Example],
    batch_size: int,
    device: torch.device,
) -> float:
    """Return ‖g_s - g_f‖² / ‖g_f‖², g the block's gradient in client model (s) and full model (f).

    This is Δ² of PAPER Sec. 4 (Assumption 4), relative to ‖g_f‖², at the round's start.  The loss
    is the mean over the examples' labels, without dropout.  The tail does not count.  The result is
    NaN or infinite if the full model's gradient is zero.  Raises ValueError without any label.
    """

    def gradients(model: nn.Module, positions: Mapping[int, int]) -> dict[str, torch.Tensor]:
        parameters = trainable_parameters(model, positions, tail=False)
        return mean_gradients(model, parameters, examples, batch_size, job.pad_id)

    approximate = gradients(client_model(job, fetch, device), trained_layers(job))
    with undisturbed(model):
        exact = gradients(model, {layer: layer for layer in job.block})
    difference = sum((approximate[n] - g).square().sum() for n, g in exact.items())
    norm = sum(g.square().sum() for g in exact.values())
    return float(torch.as_tensor(difference) / torch.as_tensor(norm))


def measure_clients(
    model: nn.Module,
    jobs: Sequence[Job],
    updates: Iterable[Update],
    fetch: Fetch,
    examples: Sequence[Example],
    *,
    clients: int,
    batch_size: int,
    rng: np.random.Generator,
    gradients: bool = False,
) -> dict[str, Any]:
    """Return ``plug_in`` (`Gap`'s fields of each measured client) and the mean ``plug_in_gap``.

    `clients` of them are drawn with `rng` from those whose model has stand-ins.  With `gradients`
    each has its ``gradient_error`` too.  The dict is empty if no client has stand-ins.
    """
    compressed = {
        job.client: job
        for job in jobs
        if job.tuned is None and not all(segment.trains for segment in job.segments)
    }
    chosen = {int(client) for client in rng.permutation(sorted(compressed))[:clients]}
    device, measured = next(model.parameters()).device, list[dict[str, Any]]()
    for update in updates:
        if update.client not in chosen:
            continue
        job = compressed[update.client]
        gap = plug_in_gap(model, job, update, fetch, examples, batch_size, device)
        measured.append(asdict(gap) | {"gap": gap.gap})
        if gradients:
            error = gradient_error(model, job, fetch, examples, batch_size, device)
            measured[-1]["gradient_error"] = error
    if not measured:
        return {}
    mean = sum(each["gap"] for each in measured) / len(measured)
    return {"plug_in": measured, "plug_in_gap": mean}


@contextmanager
def plugged_in(
    parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> Generator[None]:
    """Put `tensors` in place of the parameters' own values, and put those back after the body.

    Nothing is copied.  Raises ValueError if a tensor's name or shape is not a parameter's.
    """
    for name, tensor in tensors.items():
        if name not in parameters or tensor.shape != parameters[name].shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} is not among what the job trains")
    own = {name: parameters[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            parameters[name].data = tensor.to(own[name])
        yield
    finally:
        for name, tensor in own.items():
            parameters[name].data = tensor


def mean_gradients(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    examples: Sequence[Example],
    batch_size: int,
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """Return the mean loss's gradient by name.  No other parameter requires a gradient after."""
    model.eval().requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    device, count = next(model.parameters()).device, 0
    for _, batch in held_out_batches(examples, batch_size, pad_id, device):
        weight = label_count(batch["labels"])
        if weight:
            loss = mean_loss(model, batch)
            gradients = torch.autograd.grad(loss * weight, list(parameters.values()))
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient
            count += weight
    if not count:
        raise ValueError("there is nothing to learn from")
    return {name: total.cpu().double() / count for name, total in sums.items()}
