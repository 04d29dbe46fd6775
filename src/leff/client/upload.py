"""What a client sends back: its trained tensors, in the form that the job asks for.

payload, failure = packed(job, trained, fetch, residuals)
"""

from collections.abc import Mapping

import torch

from leff.client.model import Fetch, tuned_values
from leff.client.noised import noised
from leff.client.residuals import Residuals
from leff.models import config_from_json, family_of
from leff.privacy.noise import Noise, fresh_key
from leff.wire.codec import encoded
from leff.wire.messages import Job
from leff.wire.tensors import pack

NOT_FINITE = "a trained weight is not finite"


def packed(
    job: Job,
    trained: Mapping[str, torch.Tensor],
    fetch: Fetch,
    residuals: Residuals | None = None,
    noise: Noise | None = None,
) -> tuple[bytes, str | None]:
    """Return the payload of trained fp32 tensors, by the full model's names, or why there is none.

    With a clip in the job, `noise` is added (`client.noised`).  With `residuals`, what rounding
    lost before is added to what training changed, and what is lost now is kept for the next time.
    """
    if not _finite(trained):
        return b"", NOT_FINITE
    if job.clip:
        trained = noised(job, trained, first_values(job, fetch), noise or Noise(fresh_key()))
    if job.upload == "full":
        return pack(trained), None
    start, before = (
        first_values(job, fetch),
        {} if residuals is None else residuals.before(job.round),
    )
    differences = {name: tensor - start[name] for name, tensor in trained.items()}
    for name, difference in differences.items():
        if name in before and before[name].shape == difference.shape:
            difference += before[name]
    tensors, lost = encoded(differences, job.upload)
    if not _finite(tensors):
        return b"", NOT_FINITE
    if residuals is not None:
        residuals.keep(job.round, {**before, **lost})
    return pack(tensors), None


def first_values(job: Job, fetch: Fetch) -> dict[str, torch.Tensor]:
    """Return the values, as sent, of all that a job trains, by the full model's names."""
    if job.tuned is not None:
        return tuned_values(job.tuned, fetch)
    path, values = family_of(config_from_json(job.config)).blocks, dict(fetch(job.tail))
    for segment in job.segments:
        if segment.trains:
            for source, part in zip(segment.sources, segment.parts, strict=True):
                values |= {f"{path}.{source}.{name}": t for name, t in fetch(part).items()}
    return values


def _finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
