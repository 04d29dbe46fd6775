"""The peak memory of a client's training step, beside the interpreter's, before anything runs.

    predict(config, "generation", spec_of("leff"), setup).peak     # at the block's largest place
    predict_job(job, setup).peak                                   # of one job
    peaks_of(config, "generation", spec, setup).estimate(candidate)   # rehearses short models only

Peaks come from rehearsals (`rehearsal`), and each rehearsal is cached.  A process takes as much
memory if its allocator returns freed memory at once.  glibc does so only with
MALLOC_MMAP_THRESHOLD_=65536 in the environment; by default a process takes more (docs/LOG.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from transformers import PretrainedConfig

from leff.capacity.candidates import Candidate
from leff.capacity.footprint import footprint
from leff.capacity.leaner_steps import first_that_fits, smallest
from leff.capacity.rehearsal import Rehearsal, rehearse
from leff.capacity.sizes import FP32_BYTES, model_sizes
from leff.errors import ConfigError
from leff.methods.registry import MethodSpec
from leff.methods.setup import ClientSetup, Layout, block_layout, job_layout
from leff.methods.stand_ins import EXACT, Context, Recipe
from leff.models import (
    body_and_head,
    config_from_json,
    config_to_json,
    empty_model,
    family_of,
    short_config,
)
from leff.models.kinds import LANGUAGE_KINDS
from leff.models.losses import POSITIONS
from leff.wire.messages import Job, Step


def predict(config: PretrainedConfig, kind: str, spec: MethodSpec, setup: ClientSetup) -> Rehearsal:
    """Return the rehearsal with the largest peak, over the block's places and the run's stages.

    ConfigError if the model does not allow the method; ModelError for an impossible model.
    """
    return _predict(config_to_json(config), kind, spec, setup)


@cache
def _predict(config_json: str, kind: str, spec: MethodSpec, setup: ClientSetup) -> Rehearsal:
    config = config_from_json(config_json)
    stages = spec.stages(empty_model(config, kind), setup)
    layouts = [layout for places in stages for layout in _telling(config, kind, places, setup)]
    rehearsals = [_rehearsed(config_json, kind, layout, _bare(setup)) for layout in layouts]
    return max(rehearsals, key=lambda rehearsal: rehearsal.peak)


def _telling(
    config: PretrainedConfig, kind: str, places: Sequence[Layout], setup: ClientSetup
) -> list[Layout]:
    """Return the places that may have the largest peak.

    At the first place, the most layers have a graph; another place may have the most state bytes.
    The last place counts too if all layers have a graph wherever the block is.
    """
    sizes = model_sizes(empty_model(config, kind), kind)
    heaviest = max(places, key=lambda layout: footprint(sizes, layout, setup).state_bytes)
    last = places[-1] if family_of(config).tail_feeds_layers else heaviest
    return list(dict.fromkeys([places[0], heaviest, last]))


def predict_job(job: Job, setup: ClientSetup) -> Rehearsal:
    """Return the rehearsal of this job's step, on a full batch of texts of `setup.length` tokens.

    `setup` gives what a job does not say: that length, the share of tokens with labels, and the
    bits of the frozen words beside a block.
    """
    asked = replace(_bare(setup), step=job.training.step)
    return _rehearsed(job.config, job.kind, job_layout(job, setup.embedding_bits), asked)


def _bare(setup: ClientSetup) -> ClientSetup:
    """Return only the fields that a rehearsal depends on; others would split the cache."""
    return ClientSetup(step=setup.step, length=setup.length, labelled=setup.labelled)


@cache
def _rehearsed(config_json: str, kind: str, layout: Layout, setup: ClientSetup) -> Rehearsal:
    return rehearse(config_from_json(config_json), kind, layout, setup)


def least_peak(config: PretrainedConfig, kind: str, spec: MethodSpec, setup: ClientSetup) -> int:
    """Return the peak of the step's smallest variant."""
    return predict(config, kind, spec, replace(setup, step=smallest(setup.step))).peak


def fitted(
    config: PretrainedConfig,
    kind: str,
    spec: MethodSpec,
    setup: ClientSetup,
    memory_bytes: int | None,
) -> ClientSetup:
    """Return the setup with the first variant of its step that fits; ConfigError if none fits."""

    def peak(step: Step) -> int:
        return predict(config, kind, spec, replace(setup, step=step)).peak

    step = first_that_fits(setup.step, peak, memory_bytes)
    if step is None:
        raise ConfigError(
            f"{spec.name} needs {least_peak(config, kind, spec, setup):,} bytes at least, there "
            f"are {memory_bytes:,}"
        )
    return replace(setup, step=step)


def logits_bytes(config: PretrainedConfig, kind: str, setup: ClientSetup) -> int:
    """Return the bytes of the logits that exist at once.

    They are one chunk's (`models.losses`).  A model that computes its own loss has three fp32
    tensors of all tokens: the log-probabilities, their gradient and the logits' gradient.
    """
    if kind not in LANGUAGE_KINDS:
        return 0
    tokens = setup.step.batch_size // setup.step.accumulation * setup.length
    if body_and_head(empty_model(config, kind)) is None:
        return 3 * tokens * config.vocab_size * FP32_BYTES
    size = FP32_BYTES if setup.step.precision == "float32" else FP32_BYTES // 2
    return min(tokens, POSITIONS) * config.vocab_size * size


class Peaks:
    """Peaks of candidates for one model and step, with one example at a time.

    A rehearsal of a deep model takes seconds, and there are hundreds of candidates.  So peaks are
    estimated from short models.  The weights are counted.  The other memory grows by the same bytes
    with each layer that trains, and with each layer after the block.
    """

    def __init__(
        self, config: PretrainedConfig, kind: str, spec: MethodSpec, setup: ClientSetup
    ) -> None:
        self._config, self._kind, self._spec = config, kind, spec
        step = replace(setup.step, accumulation=setup.step.batch_size)
        self._setup = replace(setup, step=step)
        self._sizes = model_sizes(empty_model(config, kind), kind)
        self._estimates: dict[Candidate, float] = {}

    def exact(self, candidate: Candidate) -> int:
        """Return the peak by a rehearsal at full depth, at the place with the largest peak."""
        setup = candidate.setup(self._setup)
        return predict(self._config, self._kind, self._spec, setup).peak

    def estimate(self, candidate: Candidate) -> float:
        """Return an estimate of the peak at the first place, where the most layers have a graph.

        The last place is estimated too in two cases: the contexts before and after the block
        differ, or the tail feeds every layer (DeBERTa) and all layers have a graph.
        """
        if candidate not in self._estimates:
            setup, total = candidate.setup(self._setup), len(self._sizes.layers)
            blocks = [range(candidate.layers)]
            if candidate.setting.suffix or family_of(self._config).tail_feeds_layers:
                blocks.append(range(total - candidate.layers, total))
            self._estimates[candidate] = max(self._at(b, candidate, setup) for b in blocks)
        return self._estimates[candidate]

    def _at(self, block: range, candidate: Candidate, setup: ClientSetup) -> float:
        total, first = len(self._sizes.layers), block.start == 0
        layout = block_layout(setup.context, block, total, setup.embedding_bits)
        held = footprint(self._sizes, layout, setup)
        others = held.stand_in_layers
        base = self._beside(setup, EXACT, 1, 1, first)
        grown = 0
        if len(block) > 1:
            grown += (len(block) - 1) * (self._beside(setup, EXACT, 2, 1, first) - base)
        if others > 1:
            grown += (others - 1) * (self._beside(setup, EXACT, 1, 2, first) - base)
        recipe = Recipe(bits=candidate.setting.bits if others else 32)
        base = self._beside(setup, Context(recipe, recipe), 1, 1, first)
        return held.weights.total + base + grown

    def _beside(
        self, setup: ClientSetup, context: Context, layers: int, others: int, first: bool
    ) -> int:
        """Return the bytes beside the weights of a short model whose block is first or last.

        From the second example on, each takes the same memory, so two examples are rehearsed.
        """
        few = min(setup.step.batch_size, 2)
        step = replace(setup.step, batch_size=few, accumulation=few)
        total = len(self._sizes.layers)  # the short model may have more layers
        short = short_config(self._config, [i % total for i in range(layers + others)])
        start = 0 if first else others
        block = range(start, start + layers)
        layout = block_layout(context, block, layers + others, setup.embedding_bits)
        asked = _bare(replace(setup, step=step))
        rehearsal = _rehearsed(config_to_json(short), self._kind, layout, asked)
        return rehearsal.peak - rehearsal.weights


def peaks_of(config: PretrainedConfig, kind: str, spec: MethodSpec, setup: ClientSetup) -> Peaks:
    """Return the `Peaks` of a model and step.  All callers share one, with its estimates."""
    return _peaks(config_to_json(config), kind, spec, setup)


@cache
def _peaks(config_json: str, kind: str, spec: MethodSpec, setup: ClientSetup) -> Peaks:
    return Peaks(config_from_json(config_json), kind, spec, setup)
