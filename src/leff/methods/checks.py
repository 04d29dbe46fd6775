"""The tensors that a client's update must hold.

expected_shapes(model, job)      # {"transformer.h.3.ln_1.weight": (96,), ...}
"""

from torch import nn

from leff.models import trainable_names
from leff.wire.messages import Job


def expected_shapes(model: nn.Module, job: Job) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of each tensor that a client trains and its update must hold."""
    if job.tuned is not None:
        return dict(job.tuned.shapes)
    parameters = dict(model.named_parameters())
    return {name: tuple(parameters[name].shape) for name in trainable_names(model, job.block)}
