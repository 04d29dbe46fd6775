"""The cost of a client's job: operations of a step, parts sent only once.

step_flops(job_layout(job, 32), model_sizes(model, job.kind), job.training.step, length=96)
"""

from leff.capacity.sizes import Sizes, count
from leff.client.steps import step_count
from leff.methods.setup import Layout
from leff.models import lora, sparse
from leff.wire.messages import Job, Step


def step_flops(layout: Layout, sizes: Sizes, step: Step, length: int) -> int:
    """Return the operations of a step on a full batch of texts of `length` tokens.

    Stage one of slora trains single weights, but computes the gradient of every weight.  The
    merging of earlier adapters in flora is left out.
    """
    tuned = dict(layout.tuned or ())
    return sizes.step_flops(
        layout.sources,
        layout.trained_places,
        batch_size=step.batch_size,
        length=length,
        checkpointing=step.checkpointing,
        adapters=adapter_values(layout),
        linear_gradients=layout.tuned is None or any(map(sparse.is_sparse, tuned)),
    )


def adapter_values(layout: Layout) -> int:
    """Return the number of values in a client's adapters."""
    return count({name: shape for name, shape in layout.tuned or () if lora.is_adapter(name)})


def adapted_values(layout: Layout) -> int:
    """Return the number of values in the weights that a client's adapters are beside."""
    tuned = dict(layout.tuned or ())
    modules = [name.removesuffix(f".{lora.A}") for name in tuned if name.endswith(f".{lora.A}")]
    return sum(tuned[f"{m}.{lora.B}"][0] * tuned[f"{m}.{lora.A}"][1] for m in modules)


def job_steps(job: Job, examples: int) -> int:
    """Return the number of steps in the job's epochs on `examples` examples."""
    return step_count(job.training.epochs, job.training.step.batch_size, examples)


def setup_parts(job: Job) -> set[str]:
    """Return the digests of the parts that a client gets only once in a run.

    These are the embeddings, and for a job with `tuned` the whole frozen model.
    """
    parts = [job.shell]
    if job.tuned is not None:
        parts += [job.tail, *(part for segment in job.segments for part in segment.parts)]
    return {part.digest for part in parts}
