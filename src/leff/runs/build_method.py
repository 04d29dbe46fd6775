"""Builds a configuration's method, and checks that its clients have the memory for it.

    method = build_method(config, writer, proxy_batches, model)

Methods, contexts and merges know no options; they take plain values from here.
"""

import functools
import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from leff.capacity.choose import ByBudget, choose
from leff.capacity.deadline import TimeLimit
from leff.capacity.peak import least_peak, peaks_of
from leff.errors import ConfigError
from leff.methods.aggregate import Merge
from leff.methods.assignment import AsReported, Assignment
from leff.methods.jobs import JobWriter
from leff.methods.method import Method
from leff.methods.registry import BlockParts, Ingredients, MethodSpec, spec_of, users_of
from leff.methods.sampling import Rule
from leff.methods.stand_ins import Bank, Batch, Distillation
from leff.models import blocks
from leff.models.lora import check_rank, target_shapes
from leff.runs.budgets import (
    client_budgets,
    fixed_setting,
    layers_in_turn,
    setup_of,
    timed_candidates,
)
from leff.runs.option_types import picked
from leff.runs.options import RunConfig
from leff.wire.messages import Capacity


def build_method(
    config: RunConfig, writer: JobWriter, proxy: Sequence[Batch], model: Any
) -> Method:
    """Return the configuration's method.

    Raises ConfigError if a rank is too large for the model, if a client has too little memory,
    or if an option promises to save memory that the method cannot save.
    """
    spec, kind = spec_of(config.method.name), writer.kind
    _refuse_promises(config, spec)
    ranks: tuple[int, ...] = (config.method.rank,)
    if spec.ranks_by_client:
        ranks = client_ranks(config, spec, model, kind)
    elif not spec.trains_blocks:
        if "method.rank" in spec.options:
            check_rank(target_shapes(model), config.method.rank, "method.rank")
        _check_memory(config, spec, model, kind)
    return spec.build(
        Ingredients(
            writer=writer,
            model=model,
            seed=config.seed,
            rounds=config.training.rounds,
            ranks=ranks,
            lora_alpha=config.method.lora_alpha,
            base_bits=config.method.base_bits,
            sparse_share=config.method.sparse_share,
            parts=_block_parts(config, spec, kind, proxy, model) if spec.trains_blocks else None,
        )
    )


def _block_parts(
    config: RunConfig, spec: MethodSpec, kind: str, proxy: Sequence[Batch], model: Any
) -> BlockParts:
    context, method = config.context, config.method
    distillation = picked(Distillation, context)
    rule = replace(picked(Rule, method), batches=config.proxy.importance_batches)
    return BlockParts(
        assignment=_assignment(config, spec, kind, proxy, model, distillation),
        rule=rule,
        distillation=distillation,
        merge=Merge(method.relaxation or None, method.momentum),
        proxy=proxy,
        embedding_bits=context.embedding_bits,
        sizes=_known_sizes(config, len(blocks(model))),
    )


def _known_sizes(config: RunConfig, layers: int) -> tuple[int, ...]:
    """Return the number of layers of each client, in turn; () if devices decide by themselves."""
    clients, remote = config.clients, config.engine.name == "flower"
    if clients.fleet or (remote and not clients.layers):
        return ()
    return tuple(layers_in_turn(clients, layers))


def _assignment(
    config: RunConfig,
    spec: MethodSpec,
    kind: str,
    proxy: Sequence[Batch],
    model: Any,
    distillation: Distillation,
) -> Assignment:
    """Return the rule that sets each client's number of layers and context.

    Raises ConfigError for a budget that nothing fits.
    """
    context, clients = config.context, config.clients
    budgets, remote = client_budgets(clients), config.engine.name == "flower"
    by_device = remote and not clients.layers
    if context.name != "auto" and clients.fleet is None and not by_device:
        in_turn = layers_in_turn(clients, len(blocks(model)))
        given = zip(itertools.cycle(in_turn), budgets, strict=False)
        for layers, (memory_bytes, _) in set(given):
            if memory_bytes is not None:
                asked = setup_of(config, spec, layers=layers)
                needed = least_peak(model.config, kind, spec, asked)
                _refuse_memory(config, [memory_bytes], needed)
        return AsReported(fixed_setting(context).context)
    candidates, limit = timed_candidates(config, kind, model)
    peaks = peaks_of(model.config, kind, spec, setup_of(config, spec))
    if clients.fleet is not None:  # only the largest has to fit: smaller devices sit out
        budgets = [max(budgets, key=lambda budget: budget[0] or 0)]
    for budget in set(budgets):
        report = Capacity(0, 1, 0, *budget)
        choose(candidates, lambda c: dict.fromkeys(c, 0.0), report, TimeLimit(), peaks)
    bank = Bank(replace(distillation, seconds=0.0))  # no time limit, so that a resumed run agrees
    return ByBudget(
        candidates, bank, proxy, peaks, limit, measured=context.name == "auto", capped=by_device
    )


def client_ranks(config: RunConfig, spec: MethodSpec, model: Any, kind: str) -> tuple[int, ...]:
    """Return R_i of every client: clients.ranks, else what fits its memory, method.rank at most.

    Raises ConfigError if a rank is too large for the model, or if a client's memory is too small
    for its rank (without clients.ranks: for rank 1).
    """
    clients, targets = config.clients, target_shapes(model)
    given = clients.ranks or [config.method.rank]
    for rank in given:
        check_rank(targets, rank, "clients.ranks" if clients.ranks else "method.rank")
    ranks = tuple(itertools.islice(itertools.cycle(given), clients.count))
    if not (clients.memory or clients.fleet):
        return ranks

    @functools.cache
    def needed(rank: int) -> int:
        return least_peak(model.config, kind, spec, setup_of(config, spec, rank=rank))

    budgets = [memory or 0 for memory, _ in client_budgets(clients)]  # none is None here
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
    """Raise ConfigError if a client lacks memory for its rank.  Devices of a fleet sit out."""
    if config.clients.fleet:
        return
    for rank, memory in sorted(set(zip(ranks, budgets, strict=True))):
        if memory < needed(rank):
            raise ConfigError(
                f"clients.ranks gives a client with {memory / 1e6:.1f} MB rank {rank}, a step of "
                f"which takes {needed(rank) / 1e6:.1f} MB at least; lower it, or leave "
                "clients.ranks out: ranks then go by clients.memory"
            )


def _refuse_promises(config: RunConfig, spec: MethodSpec) -> None:
    """Raise ConfigError for an option that saves memory or bytes, but not with this method."""
    if spec.new_basis and config.engine.upload != "full":
        raise ConfigError(
            f"engine.upload = {config.engine.upload!r} cannot be used by {spec.name}: its adapters "
            "have another basis in each round, so what rounding lost cannot be added later; use "
            "engine.upload = 'full'"
        )
    values = {"clients.ranks": config.clients.ranks, "method.base_bits": config.method.base_bits}
    for key, value in values.items():
        names = users_of(key)
        if value not in ([], 32) and config.method.name not in names:
            raise ConfigError(
                f"{key} cannot be used by {config.method.name}; use {' or '.join(names)}, or "
                "leave it out"
            )


def _check_memory(config: RunConfig, spec: MethodSpec, model: Any, kind: str) -> None:
    """Raise ConfigError if a client lacks the memory for a method with one setup for all."""
    if config.clients.memory or config.clients.fleet:
        needed = least_peak(model.config, kind, spec, setup_of(config, spec))
        _refuse_memory(config, [memory for memory, _ in client_budgets(config.clients)], needed)


def _refuse_memory(config: RunConfig, budgets: Sequence[int | None], needed: int) -> None:
    """Raise ConfigError if a client has too little memory.

    A fleet is refused only if all its devices have too little.  Otherwise those sit out.
    """
    known = [memory for memory in budgets if memory is not None]
    least = max(known) if config.clients.fleet else min(known, default=needed)
    if least < needed:
        key = "clients.fleet" if config.clients.fleet else "clients.memory"
        raise ConfigError(
            f"{key}: {least / 1e6:.1f} MB is too little for {config.method.name}, a step of which "
            f"takes {needed / 1e6:.1f} MB at least; use leff with context.name = 'auto', or leave "
            "out clients with less"
        )
