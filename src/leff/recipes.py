"""From a configuration to a method: how each is built, and what clients can afford.

    method = METHODS["leff"].build(config, writer, proxy_batches, model)

Options end here: methods, contexts and merges take values.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from leff.aggregate import Merge
from leff.config import RunConfig
from leff.context import Bank, Distillation
from leff.context.auto import Setting, candidates, choose
from leff.errors import ConfigError
from leff.families import blocks
from leff.fitting import Auto, Fitting, Fixed
from leff.footprint import Choice
from leff.methods.fedavg import FedAvg
from leff.methods.leff import Leff
from leff.methods.method import JobWriter, Method
from leff.options import ClientsConfig
from leff.sampling import BlockSampler, Rule
from leff.sizes import model_sizes
from leff.units import BYTES, FLOPS, parse_amount

Batches = Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class MethodRecipe:
    """How a method is built, and whether it needs public proxy data."""

    build: Callable[[RunConfig, JobWriter, Batches, Any], Method]  # the last: the model
    uses_proxy: bool


def _leff(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    context, method = config.context, config.method
    distillation = Distillation(
        steps=context.steps,
        learning_rate=context.learning_rate,
        attention_weight=context.attention_weight,
        whole=context.whole,
        target_error=context.target_error,
        seconds=context.seconds,
    )
    rule = Rule(
        sampling=method.sampling,
        scale=method.scale,
        temperature=method.temperature,
        source=method.source,
        exploration=method.exploration,
        stratified=method.stratified,
        batches=config.proxy.importance_batches,
    )
    return Leff(
        replace(writer, shell_bits=context.embedding_bits),
        BlockSampler(rule, proxy, len(blocks(model))),
        _fitting(config, writer.kind, proxy, model, distillation),
        Bank(distillation),
        Merge(method.relaxation or None, method.momentum),
        proxy,
    )


def _fitting(
    config: RunConfig, kind: str, proxy: Batches, model: Any, distillation: Distillation
) -> Fitting:
    """Return what says how many layers each client trains, and in which context.

    Raises ConfigError for a budget that nothing fits.
    """
    context = config.context
    if context.name != "auto":
        return Fixed(Setting(context.name, context.rate, context.bits, context.suffix).context)
    asked = Choice(
        embedding_bits=context.embedding_bits,
        batch_size=config.training.batch_size,
        length=config.data.max_length,
    )
    found = candidates(model_sizes(model, kind), asked)
    for memory_bytes, step_flops in set(client_budgets(config.clients)):
        choose(found, dict.fromkeys(found, 0.0), memory_bytes, step_flops)
    return Auto(found, Bank(replace(distillation, seconds=0.0)), proxy)  # no clock: resumable


METHODS = {
    "leff": MethodRecipe(_leff, uses_proxy=True),
    "fedavg": MethodRecipe(lambda config, writer, proxy, model: FedAvg(writer), uses_proxy=False),
}


def client_capacities(layers: Sequence[int], count: int, total: int) -> tuple[int, ...]:
    """Return L_i of every client; ConfigError for one outside [1, L]."""
    outside = [number for number in layers if not 1 <= number <= total]
    if outside:
        raise ConfigError(
            f"clients.layers must be 1 to {total}, the model's number of layers, got {outside[0]}"
        )
    return tuple(itertools.islice(itertools.cycle(layers), count))


def client_budgets(clients: ClientsConfig) -> list[tuple[int | None, int | None]]:
    """Return every client's bytes of training state and operations of a step, None if unlimited."""
    memory = [parse_amount(text, BYTES) for text in clients.memory] or [None]
    flops = [parse_amount(text, FLOPS) for text in clients.flops] or [None]
    return list(
        itertools.islice(
            zip(itertools.cycle(memory), itertools.cycle(flops), strict=False), clients.count
        )
    )
