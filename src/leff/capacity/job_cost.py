"""What a job takes on the client that does it: operations, steps, bytes that come back.

    step_flops(job, model_sizes(model, job.kind), length=96)

The same counting as `footprint`, for the block that was drawn instead of the worst place.
"""

import json
import math
from collections.abc import Mapping

from leff.capacity.sizes import FP32_BYTES, Sizes
from leff.models import lora, sparse
from leff.wire.messages import Job

Shapes = Mapping[str, tuple[int, ...]]


def step_flops(job: Job, sizes: Sizes, length: int) -> int:
    """Return the operations of a step on a full batch of texts of `length` tokens.

    slora's single weights (stage one) cost a gradient of every weight.  flora's merging of earlier
    adapters is left out.
    """
    trains = [segment.trains or job.tuned is not None for segment in job.segments]
    spread = [trained for s, trained in zip(job.segments, trains, strict=True) for _ in s.sources]
    shapes = {} if job.tuned is None else job.tuned.shapes
    return sizes.step_flops(
        [source for segment in job.segments for source in segment.sources],
        {layer for layer, trained in enumerate(spread) if trained},
        batch_size=job.training.batch_size,
        length=length,
        checkpointing=job.training.checkpointing,
        adapters=_count({n: s for n, s in shapes.items() if lora.is_adapter(n)}),
        linear_gradients=job.tuned is None or any(sparse.is_sparse(name) for name in shapes),
    )


def step_count(job: Job, examples: int) -> int:
    """Return the number of steps in the job's epochs, as `local_steps.batches` takes them."""
    return steps_of(job.training.epochs, job.training.batch_size, examples)


def steps_of(epochs: float, batch_size: int, examples: int) -> int:
    """Return the number of steps in so many epochs of so many examples."""
    return math.ceil(round(epochs * math.ceil(examples / batch_size), 9))


def setup_parts(job: Job) -> set[str]:
    """Return the digests of the parts that go to a client once, whatever the number of rounds.

    That is the embeddings, and for a job with `tuned` the whole frozen model.
    """
    parts = [job.shell]
    if job.tuned is not None:
        parts += [job.tail, *(part for segment in job.segments for part in segment.parts)]
    return {part.digest for part in parts}


def payload_bytes(shapes: Shapes) -> int:
    """Return the size of an update with fp32 tensors of these shapes, as `types.pack` makes it.

    Safetensors: 8 bytes, a header in JSON padded to a multiple of 8, the values.
    """
    offset, header = 0, {}
    for name in sorted(shapes):
        end = offset + FP32_BYTES * math.prod(shapes[name])
        header[name] = {
            "dtype": "F32",
            "shape": list(shapes[name]),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + math.ceil(len(text) / 8) * 8 + offset


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
