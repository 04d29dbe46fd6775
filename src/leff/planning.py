"""Plans by name, without weights: what a method costs a client, and what a budget has room for.

planned("gpt2", "leff", RunConfig(), layers=2)["total_bytes"]
chosen("gpt2", RunConfig(), memory="1GB")["layers"]
"""

from typing import Any

from transformers import PretrainedConfig

from leff import cost
from leff.config import RunConfig
from leff.context.auto import Setting, assumed_errors, candidates, choose
from leff.families import empty_model
from leff.families.known import KNOWN_CONFIGS, load_config
from leff.footprint import Choice
from leff.sizes import model_sizes
from leff.sources import model_source
from leff.units import BYTES, FLOPS, parse_amount


def planned(model: str, method: str, config: RunConfig, **numbers: int) -> dict[str, Any]:
    """Return `cost.plan` of a model by its name, in the configuration's context and batches.

    `numbers` are `layers`, `rank` and `base_bits`, which is the configuration's unless given.
    """
    asked, numbers = config.context, {"rank": config.method.rank, **numbers}
    numbers.setdefault("base_bits", config.method.base_bits)
    found = cost.plan(
        *shape_of(model),
        method,
        **numbers,
        context=Setting(asked.name, asked.rate, asked.bits, asked.suffix).context,
        clients=max(1, round(config.clients.count * config.clients.per_round)),
        embedding_bits=asked.embedding_bits if method == "leff" else 32,
        batch_size=config.training.batch_size,
        length=config.data.max_length,
    ).to_dict()
    context = asked.name if found["stand_in_layers"] else None
    return {**found, "model": model, "context": context}


def chosen(
    model: str, config: RunConfig, memory: str | None = None, flops: str | None = None
) -> dict[str, Any]:
    """Return the layers and the context of least error that fit budgets such as 64MB and 50G.

    Without weights nothing can be measured: errors are `assumed_errors`.  `options` are those of
    a run that does this.  ConfigError if nothing fits.
    """
    memory_bytes = None if memory is None else parse_amount(memory, BYTES)
    step_flops = None if flops is None else parse_amount(flops, FLOPS)
    asked = Choice(
        embedding_bits=config.context.embedding_bits,
        batch_size=config.training.batch_size,
        length=config.data.max_length,
    )
    shape, kind = shape_of(model)
    found = candidates(model_sizes(empty_model(shape, kind), kind), asked)
    errors = assumed_errors(found)
    best = choose(found, errors, memory_bytes, step_flops)
    return {
        "model": model,
        "layers": best.layers,
        "context": str(best.setting),
        "predicted_bytes": best.state_bytes,
        "step_flops": best.step_flops,
        "assumed_error": errors[best],
        "options": {"clients.layers": [best.layers], **best.setting.options()},
    }


def shape_of(model: str) -> tuple[PretrainedConfig, str]:
    """Return a model's configuration and kind, by a known name, a folder, a file or a hub id."""
    return load_config(model if model in KNOWN_CONFIGS else model_source(model))
