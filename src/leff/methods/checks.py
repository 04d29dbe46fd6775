"""Checks of updates: the tensors that an update must hold, and reasons to refuse one.

refusal(expected_shapes(model, job), update)      # None, or the reason
"""

from collections.abc import Mapping

import torch
from torch import nn

from leff.models import trainable_names
from leff.wire.messages import Job, Update
from leff.wire.tensors import unpack


def expected_shapes(model: nn.Module, job: Job) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of each tensor that a client trains and its update must hold."""
    if job.tuned is not None:
        return dict(job.tuned.shapes)
    parameters = dict(model.named_parameters())
    return {name: tuple(parameters[name].shape) for name in trainable_names(model, job.block)}


def refusal(shapes: Mapping[str, tuple[int, ...]], update: Update) -> str | None:
    """Return the reason why an update cannot be merged, or None.

    The update must hold exactly the tensors of these names and shapes, and all must be finite.
    """
    if update.failure is not None:
        return update.failure
    tensors = unpack(update.payload)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes.get(name):
            return f"the update has {name} {tuple(tensor.shape)}, which the job did not ask for"
        if not torch.isfinite(tensor).all():
            return f"{name} in the update is not finite"
    missing = shapes.keys() - tensors.keys()
    return f"the update lacks {min(missing)}" if missing else None
