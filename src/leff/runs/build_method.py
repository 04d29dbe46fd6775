"""From a configuration to a method: how each is built, and what clients can afford.

    method = METHODS["leff"].build(config, writer, proxy_batches, model)

Options end here: methods, contexts and merges take values.
"""

import functools
import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from leff.capacity.choose import Auto, choose
from leff.capacity.deadline import TimeLimit
from leff.capacity.footprint import shell_bits
from leff.capacity.peak import least_peak
from leff.capacity.peaks import peaks_of
from leff.errors import ConfigError
from leff.methods.aggregate import Merge
from leff.methods.assignment import Fitting, Fixed
from leff.methods.fedavg import FedAvg
from leff.methods.fedbitfit import FedBitFit
from leff.methods.fedlora import FedLora
from leff.methods.flexlora import FlexLora
from leff.methods.flora import FLora
from leff.methods.jobs import JobWriter
from leff.methods.leff import Leff
from leff.methods.method import Method
from leff.methods.sampling import BlockSampler, Rule
from leff.methods.slora import SLora
from leff.methods.stand_ins import Bank, Distillation
from leff.methods.whole import WholeModel
from leff.models import blocks
from leff.models.lora import check_rank, target_shapes
from leff.runs.budgets import client_budgets, timed_candidates
from leff.runs.config import RunConfig
from leff.runs.setups import choice_of, fixed_setting
from leff.runs.unused import ADAPTER_OPTIONS
from leff.wire.messages import Capacity

Batches = Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class MethodRecipe:
    """How a method is built, and whether it needs public proxy data."""

    build: Callable[[RunConfig, JobWriter, Batches, Any], Method]  # the last: the model
    uses_proxy: bool = False


def _leff(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    _refuse_promises(config)
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
    context, clients = config.context, config.clients
    budgets = client_budgets(clients)
    if context.name != "auto" and clients.fleet is None:
        given = zip(itertools.cycle(clients.layers), budgets, strict=False)
        for layers, (memory_bytes, _) in set(given):
            if memory_bytes is not None:
                asked = choice_of(config, "leff", layers=layers)
                needed = least_peak(model.config, kind, "leff", asked)
                _refuse_memory(config, [memory_bytes], needed)
        return Fixed(fixed_setting(context).context)
    found, limit = timed_candidates(config, kind, model)
    peaks = peaks_of(model.config, kind, choice_of(config, "leff"))
    if clients.fleet is not None:  # devices with less than the least sit out
        budgets = [max(budgets, key=lambda budget: budget[0] or 0)]
    for budget in set(budgets):
        choose(
            found, lambda c: dict.fromkeys(c, 0.0), Capacity(0, 1, 0, *budget), TimeLimit(), peaks
        )
    bank = Bank(replace(distillation, seconds=0.0))  # no clock: resumable
    return Auto(found, bank, proxy, peaks, limit, measured=context.name == "auto")


def _fedavg(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    _check_memory(config, model, writer.kind)
    return FedAvg(writer)


def _fedbitfit(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    _check_memory(config, model, writer.kind)
    return FedBitFit(WholeModel(writer), model)


def _fedlora(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    method = config.method
    check_rank(target_shapes(model), method.rank, "method.rank")
    _check_memory(config, model, writer.kind)
    return FedLora(_base(config, writer), model, method.rank, method.lora_alpha, config.seed)


def _slora(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    method, rounds = config.method, config.training.rounds
    check_rank(target_shapes(model), method.rank, "method.rank")
    _check_memory(config, model, writer.kind)
    if rounds < 2:
        raise ConfigError("slora has two stages, so training.rounds must be at least 2, got 1")
    sparse_rounds = min(max(1, round(method.sparse_share * rounds)), rounds - 1)
    base = WholeModel(writer)
    return SLora(base, model, method.rank, method.lora_alpha, sparse_rounds, config.seed)


def _flora(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    ranks = client_ranks(config, model, writer.kind)
    return FLora(WholeModel(writer), model, ranks, config.method.lora_alpha, config.seed)


def _flexlora(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    ranks = client_ranks(config, model, writer.kind)
    base = _base(config, writer)
    return FlexLora(base, model, ranks, config.method.lora_alpha, config.seed)


def _base(config: RunConfig, writer: JobWriter) -> WholeModel:
    bits = config.method.base_bits
    return WholeModel(replace(writer, shell_bits=shell_bits(bits)), bits)


METHODS = {
    "leff": MethodRecipe(_leff, uses_proxy=True),
    "fedavg": MethodRecipe(_fedavg),
    "fedbitfit": MethodRecipe(_fedbitfit),
    "fedlora": MethodRecipe(_fedlora),
    "slora": MethodRecipe(_slora),
    "flora": MethodRecipe(_flora),
    "flexlora": MethodRecipe(_flexlora),
}


def client_ranks(config: RunConfig, model: Any, kind: str) -> tuple[int, ...]:
    """Return R_i of every client: as given, or the largest to method.rank that its memory allows.

    Raises ConfigError for a rank that the model has no room for, and memory that has none for the
    client's rank, or for 1.
    """
    _refuse_promises(config)
    clients, targets = config.clients, target_shapes(model)
    given = clients.ranks or [config.method.rank]
    for rank in given:
        check_rank(targets, rank, "clients.ranks" if clients.ranks else "method.rank")
    ranks = tuple(itertools.islice(itertools.cycle(given), clients.count))
    if not (clients.memory or clients.fleet):
        return ranks

    @functools.cache
    def needed(rank: int) -> int:
        asked = choice_of(config, config.method.name, rank=rank)
        return least_peak(model.config, kind, config.method.name, asked)

    budgets = [memory or 0 for memory, _ in client_budgets(clients)]  # all are limited
    if clients.ranks:
        _refuse_ranks(config, ranks, budgets, needed)
        return ranks
    _refuse_memory(config, budgets, needed(1))
    lower = range(1, config.method.rank + 1)
    largest = {memory: bisect_right(lower, memory, key=needed) for memory in set(budgets)}
    return tuple(max(1, largest[memory]) for memory in budgets)


def _refuse_ranks(
    config: RunConfig, ranks: Sequence[int], budgets: Sequence[int], needed: Callable[[int], int]
) -> None:
    """Raise ConfigError for a client that lacks the memory for its rank; a fleet's sit out."""
    if config.clients.fleet:
        return
    for rank, memory in sorted(set(zip(ranks, budgets, strict=True))):
        if memory < needed(rank):
            raise ConfigError(
                f"clients.ranks gives a client with {memory / 1e6:.1f} MB rank {rank}, a step of "
                f"which takes {needed(rank) / 1e6:.1f} MB at least; lower it, or leave "
                "clients.ranks out: ranks then go by clients.memory"
            )


def _refuse_promises(config: RunConfig) -> None:
    """Raise ConfigError for what would spare clients memory and that the method does not do."""
    values = {"clients.ranks": config.clients.ranks, "method.base_bits": config.method.base_bits}
    for key, value in values.items():
        methods = ADAPTER_OPTIONS[key]
        if value not in ([], 32) and config.method.name not in methods:
            raise ConfigError(
                f"{key} cannot be used by {config.method.name}; use {' or '.join(methods)}, or "
                "leave it out"
            )


def _check_memory(config: RunConfig, model: Any, kind: str) -> None:
    """Raise ConfigError for what clients cannot do with this method, in which all are alike."""
    _refuse_promises(config)
    if not (config.clients.memory or config.clients.fleet):
        return
    name = config.method.name
    needed = least_peak(model.config, kind, name, choice_of(config, name))
    _refuse_memory(config, [memory for memory, _ in client_budgets(config.clients)], needed)


def _refuse_memory(config: RunConfig, budgets: Sequence[int | None], needed: int) -> None:
    """Raise ConfigError if a client has too little memory; in a fleet, if all have.

    Those devices of a fleet that have too little sit every round out, which its record says.
    """
    known = [memory for memory in budgets if memory is not None]
    least = max(known) if config.clients.fleet else min(known, default=needed)
    if least < needed:
        key = "clients.fleet" if config.clients.fleet else "clients.memory"
        raise ConfigError(_too_little(key, config.method.name, least, needed))


def _too_little(key: str, method: str, memory_bytes: int, needed: int) -> str:
    return (
        f"{key}: {memory_bytes / 1e6:.1f} MB is too little for {method}, a step of which takes "
        f"{needed / 1e6:.1f} MB at least; use leff with context.name = 'auto', or leave out "
        "clients with less"
    )


def client_capacities(layers: Sequence[int], count: int, total: int) -> tuple[int, ...]:
    """Return L_i of every client; ConfigError for one outside [1, L]."""
    outside = [number for number in layers if not 1 <= number <= total]
    if outside:
        raise ConfigError(
            f"clients.layers must be 1 to {total}, the model's number of layers, got {outside[0]}"
        )
    return tuple(itertools.islice(itertools.cycle(layers), count))
