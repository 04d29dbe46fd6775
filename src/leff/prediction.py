"""Peak memory of a client's training step above the interpreter's, before anything runs.

    predict(config, "generation", "leff", choice).peak

A rehearsal (`leff.rehearsal`) at the block's place where most is held.  A process takes as much if
its allocator gives freed memory back at once; glibc does with MALLOC_MMAP_THRESHOLD_=65536 in the
environment.  As it comes it keeps pieces of it, and a process takes more (docs/LOG.md).
"""

from dataclasses import replace
from functools import cache

from transformers import PretrainedConfig

from leff.families import body_and_head, config_from_json, config_to_json, empty_model, layer_count
from leff.families.kinds import LANGUAGE_KINDS
from leff.footprint import Choice, placed
from leff.losses import POSITIONS
from leff.rehearsal import Rehearsal, rehearse
from leff.sizes import FP32_BYTES, model_sizes


def predict(config: PretrainedConfig, kind: str, method: str, choice: Choice) -> Rehearsal:
    """Return what a step holds; for leff at the place, for slora in the stage, of the most.

    ConfigError for a method that the model does not allow, ModelError for a model that cannot be.
    """
    return _predict(config_to_json(config), kind, method, choice)


@cache
def _predict(config_json: str, kind: str, method: str, choice: Choice) -> Rehearsal:
    config = config_from_json(config_json)
    if method == "leff":
        found = [rehearse(config, kind, method, choice, b) for b in _blocks(config, kind, choice)]
    else:
        found = [rehearse(config, kind, method, choice)]
    if method == "slora":
        found.append(rehearse(config, kind, "fedlora", replace(choice, base_bits=32)))
    return max(found, key=lambda each: each.peak)


def _blocks(config: PretrainedConfig, kind: str, choice: Choice) -> list[range]:
    """Return the first block, behind which there is most to go back through, and the heaviest."""
    sizes = model_sizes(empty_model(config, kind), kind)
    places = [range(k, k + choice.layers) for k in range(layer_count(config) - choice.layers + 1)]
    heaviest = max(places, key=lambda block: placed(sizes, block, choice).state_bytes)
    return list(dict.fromkeys((places[0], heaviest)))


def logits_bytes(config: PretrainedConfig, kind: str, choice: Choice) -> int:
    """Return the bytes of a loss's logits: three of a chunk, or of all that a model makes itself.

    The three are log-probabilities, their gradient and the logits' (`leff.losses`).
    """
    if kind not in LANGUAGE_KINDS:
        return 0
    tokens = choice.batch_size // choice.accumulation * choice.length
    chunked = body_and_head(empty_model(config, kind)) is not None
    count = min(tokens, POSITIONS) if chunked else tokens
    return 3 * count * config.vocab_size * FP32_BYTES
