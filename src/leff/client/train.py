"""One client's training: a pure function, the same under every engine.

    update = train(job, store.get, examples, device)

A client sees only its own examples, the job, and the parts that the job names.  It builds a real
Hugging Face model, with fewer layers under LEFF.  It trains what the job says (PAPER Sec. 3.4 and
Table 5), and sends back only the trained tensors.
"""

import gc
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from leff.client.deadline import Deadline
from leff.client.memory import asked_bytes, is_out_of_memory, resident_bytes
from leff.client.model import Fetch, prepared
from leff.client.residuals import Residuals
from leff.client.steps import local_steps, step_count
from leff.client.upload import first_values, packed
from leff.errors import LeffError
from leff.models.hardware import give_back
from leff.privacy.noise import Noise
from leff.seeds import forked
from leff.tasks.encode import Example
from leff.wire.messages import Job, Update

log = logging.getLogger("leff.client")


def train(
    job: Job,
    fetch: Fetch,
    examples: Sequence[Example],
    device: torch.device,
    residuals: Residuals | None = None,
    deadline: Deadline | None = None,
    noise: Noise | None = None,
) -> Update:
    """Do a job on a client's own examples and return the update.

    The result depends only on the job, its parts and the examples, and for a rounded upload on the
    `residuals` before the round; without these, what rounding loses is lost.  Dropout and the order
    of the examples draw from `job.seed`.  If a loss or a weight is not finite, or there are no
    examples, the update reports a failure, and nothing is raised.  After the `deadline` no step is
    begun.  If the job asks for noise, it comes from `noise`, or else from the operating system.  A
    job with a clip is private: there the values of the start are sent in place of such a failure,
    which would tell of the data.
    """
    started = time.perf_counter()
    model, trained = prepared(job, fetch, device)
    with forked(job.seed):
        done = local_steps(model, list(trained.values()), job, examples, device, deadline)
    model.zero_grad(set_to_none=True)  # packing the update can reuse the gradients' memory
    tensors = {name: parameter.detach().cpu() for name, parameter in trained.items()}
    payload, failure = b"", done.failure
    if failure is None:
        payload, failure = packed(job, tensors, fetch, residuals, noise)
    steps = len(done.losses)
    if failure is not None and job.clip and examples and not done.late:
        log.warning("%s; no change is sent, as a failure tells of data", failure)
        payload, failure, steps = _no_change(job, fetch, examples, residuals, noise)
    return Update(
        round=job.round,
        client=job.client,
        layers=job.block,
        examples=len(examples),
        payload=payload,
        losses=None if failure or job.private else _ends(done.losses),
        steps=steps,
        train_seconds=time.perf_counter() - started,
        upload_bytes=len(payload),
        layer_scores=() if failure or job.private else done.layer_scores,
        state_bytes=0 if job.clip else done.state_bytes,
        failure=failure,
    )


def train_or_fail(
    job: Job,
    fetch: Fetch,
    examples: Sequence[Example],
    device: torch.device,
    residuals: Residuals | None = None,
    deadline: Deadline | None = None,
    noise: Noise | None = None,
) -> Update:
    """Train, and return any error on the client as an update with its failure.

    The failure has the error's type only, as its text may hold private data; the log has the rest.
    A private job's values of the start are sent instead, as in `train`.  A LeffError is raised,
    since the server or the request is at fault.
    """
    before, started = resident_bytes(device), time.perf_counter()
    try:
        return train(job, fetch, examples, device, residuals, deadline, noise)
    except LeffError:
        raise
    except Exception as error:
        failed = Update(job.round, job.client, job.block, len(examples))
        if not is_out_of_memory(error):
            log.warning("client %d failed in round %d", job.client, job.round + 1, exc_info=True)
            if not (job.clip and examples):
                return replace(failed, failure=f"training failed with {type(error).__name__}")
            log.warning("no change is sent, as a failure tells of data")
            payload, failure, steps = _no_change(job, fetch, examples, residuals, noise)
            return replace(
                failed,
                payload=payload,
                steps=steps,
                train_seconds=time.perf_counter() - started,
                upload_bytes=len(payload),
                failure=failure,
            )
        held = max(1, resident_bytes(device) - before + asked_bytes(error))
        log.warning("client %d in round %d ran out of memory: %s", job.client, job.round + 1, error)
    gc.collect()  # the error is gone now, so its tensors can be freed
    give_back(device)
    failure = f"out of memory: {held:,} bytes held and asked for"
    return replace(failed, failure=failure, out_of_memory_bytes=held)


def _no_change(
    job: Job,
    fetch: Fetch,
    examples: Sequence[Example],
    residuals: Residuals | None,
    noise: Noise | None,
) -> tuple[bytes, str | None, int]:
    """Return the packed values of the start, why they cannot be packed, and the job's steps."""
    payload, failure = packed(job, first_values(job, fetch), fetch, residuals, noise)
    steps = step_count(job.training.epochs, job.training.step.batch_size, len(examples))
    return payload, failure, steps


def _ends(losses: Sequence[float]) -> tuple[float, float] | None:
    """Return the means of the first and of the last quarter of the losses; None without losses."""
    quarter = max(1, len(losses) // 4)
    first, last = sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter
    return (first, last) if losses else None
