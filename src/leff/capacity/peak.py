"""Peak memory of a client's training step above the interpreter's, before anything runs.

    predict(config, "generation", "leff", choice).peak         # at the place of the most
    predict_job(job, choice).peak                              # of a job as it was written

Rehearsals (`rehearsal`), each of which is kept.  A process takes as much if its allocator
gives freed memory back at once; glibc does with MALLOC_MMAP_THRESHOLD_=65536 in the environment.
As it comes it keeps pieces of it, and a process takes more (docs/LOG.md).
"""

from dataclasses import replace
from functools import cache

from transformers import PretrainedConfig

from leff.capacity.footprint import EXACT, Choice, placed
from leff.capacity.leaner_steps import leanest, plainest
from leff.capacity.rehearsal import Rehearsal, rehearse_layout
from leff.capacity.sample_job import layout
from leff.capacity.sizes import FP32_BYTES, model_sizes
from leff.errors import ConfigError
from leff.models import (
    body_and_head,
    config_from_json,
    config_to_json,
    empty_model,
    family_of,
    layer_count,
    sparse,
)
from leff.models.kinds import LANGUAGE_KINDS
from leff.models.lora import A
from leff.models.losses import POSITIONS
from leff.wire.messages import Job, Segment

TRAINING = (
    "batch_size",
    "precision",
    "accumulation",
    "checkpointing",
    "optimizer",
    "proximal",
)  # of `LocalTraining` and of `Choice`


def predict(config: PretrainedConfig, kind: str, method: str, choice: Choice) -> Rehearsal:
    """Return what a step holds; for leff at the place, for slora in the stage, of the most.

    ConfigError for a method that the model does not allow, ModelError for a model that cannot be.
    """
    return _predict(config_to_json(config), kind, method, choice)


@cache
def _predict(config_json: str, kind: str, method: str, choice: Choice) -> Rehearsal:
    layers: list[tuple[Segment, ...]] = [()]
    if method == "leff":
        config = config_from_json(config_json)
        total, blocks = layer_count(config), _blocks(config, kind, choice)
        layers = [layout(choice.context, block, total) for block in blocks]
    found = [rehearsed(config_json, kind, method, choice, each) for each in layers]
    if method == "slora":
        found.append(rehearsed(config_json, kind, "fedlora", replace(choice, base_bits=32)))
    return max(found, key=lambda each: each.peak)


def predict_job(job: Job, asked: Choice) -> Rehearsal:
    """Return what a step of this job holds, on a full batch of texts of `asked.length` tokens.

    `asked` has what a job does not say: that length, how many of the tokens have labels, the bits
    of the frozen words, the rank behind slora's single weights.
    """
    choice = replace(asked, **{name: getattr(job.training, name) for name in TRAINING})
    if job.tuned is None:
        layers = tuple(replace(segment, parts=()) for segment in job.segments)
        return rehearsed(job.config, job.kind, "leff", choice, layers)
    ranks = [shape[0] for name, shape in job.tuned.shapes.items() if name.endswith(f".{A}")]
    if ranks:
        choice = replace(choice, rank=ranks[0], base_bits=job.segments[0].bits)
        return rehearsed(job.config, job.kind, "fedlora", choice)
    single = any(sparse.is_sparse(name) for name in job.tuned.shapes)
    return rehearsed(job.config, job.kind, "slora" if single else "fedbitfit", choice)


def rehearsed(
    config_json: str, kind: str, method: str, choice: Choice, layers: tuple[Segment, ...] = ()
) -> Rehearsal:
    """Return the rehearsal, which is kept: of a client's model of these segments (leff)."""
    same = replace(choice, layers=1, context=EXACT, clients=Choice.clients)  # `layers` says it
    return _rehearsed(config_json, kind, method, same, layers)


@cache
def _rehearsed(
    config_json: str, kind: str, method: str, choice: Choice, layers: tuple[Segment, ...]
) -> Rehearsal:
    return rehearse_layout(config_from_json(config_json), kind, method, choice, layers)


def least_peak(config: PretrainedConfig, kind: str, method: str, asked: Choice) -> int:
    """Return the peak of the leanest way to do the step."""
    return predict(config, kind, method, replace(asked, **vars(leanest(asked)))).peak


def fitted(
    config: PretrainedConfig, kind: str, method: str, asked: Choice, memory_bytes: int | None
) -> Choice:
    """Return the choice with its step done the plainest way that fits; ConfigError if none does."""
    way = plainest(
        asked,
        lambda way: predict(config, kind, method, replace(asked, **vars(way))).peak,
        memory_bytes,
    )
    if way is None:
        raise ConfigError(
            f"{method} needs {least_peak(config, kind, method, asked):,} bytes at least, there are "
            f"{memory_bytes:,}"
        )
    return replace(asked, **vars(way))


def _blocks(config: PretrainedConfig, kind: str, choice: Choice) -> list[range]:
    """Return the first block, behind which there is most to go back through, and the heaviest.

    And the last, where all layers have a graph wherever the block is.
    """
    sizes = model_sizes(empty_model(config, kind), kind)
    places = [range(k, k + choice.layers) for k in range(layer_count(config) - choice.layers + 1)]
    heaviest = max(places, key=lambda block: placed(sizes, block, choice).state_bytes)
    last = places[-1:] if family_of(config).tail_feeds_layers else []
    return list(dict.fromkeys((places[0], heaviest, *last)))


def logits_bytes(config: PretrainedConfig, kind: str, choice: Choice) -> int:
    """Return the bytes of a loss's logits: three of a chunk, or of all that a model makes itself.

    The three are log-probabilities, their gradient and the logits' (`leff.models.losses`).
    """
    if kind not in LANGUAGE_KINDS:
        return 0
    tokens = choice.batch_size // choice.accumulation * choice.length
    chunked = body_and_head(empty_model(config, kind)) is not None
    count = min(tokens, POSITIONS) if chunked else tokens
    return 3 * count * config.vocab_size * FP32_BYTES
