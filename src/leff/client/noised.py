"""Noise that a client adds to its own update, for a server that it does not trust.

trained = noised(job, trained, start, noise)
"""

import hashlib
import math
from collections.abc import Mapping

import torch

from leff.privacy.clipping import clip_factor
from leff.privacy.noise import Noise
from leff.wire.json import job_digest
from leff.wire.messages import Job


def noised(
    job: Job,
    trained: Mapping[str, torch.Tensor],
    start: Mapping[str, torch.Tensor],
    noise: Noise,
) -> dict[str, torch.Tensor]:
    """Return trained fp32 tensors with their difference from `start` clipped and noised.

    Its L2 norm over all tensors together is at most `job.clip`.  Then every value gets noise of
    deviation `job.noise` · `job.clip`.  The same job and the same result of training get the same
    noise, and any other gets its own.
    """
    changes = {name: trained[name].double() - start[name].double() for name in sorted(trained)}
    norm = math.sqrt(math.fsum(float(change.square().sum()) for change in changes.values()))
    factor = clip_factor(norm, job.clip)
    label, deviation = (job_digest(job), _digest(trained)), job.noise * job.clip
    found: dict[str, torch.Tensor] = {}
    for name, change in changes.items():
        drawn = torch.from_numpy(noise.normal(change.numel(), *label, name))  # pyright: ignore[reportUnknownMemberType]
        moved = start[name].double() + change * factor + drawn.view(change.shape) * deviation
        found[name] = moved.to(trained[name].dtype)
    return found


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(tensors[name].contiguous().numpy().tobytes())
    return sha.hexdigest()
