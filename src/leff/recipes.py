"""From a configuration to a method: how each is built, and what clients can afford.

    method = METHODS["leff"].build(config, writer, proxy_batches, model)

Options end here: methods, contexts and merges take values.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from leff.aggregate import Merge
from leff.config import RunConfig
from leff.context import Bank, Distillation
from leff.context.auto import Candidate, Setting, candidates, choose
from leff.cost import METHODS as FOOTPRINTS
from leff.cost import shell_bits
from leff.deadline import TimeLimit, candidate_needs, footprint_needs
from leff.devices import Device, fleet_devices, read_classes
from leff.errors import ConfigError
from leff.families import blocks
from leff.fitting import Auto, Fitting, Fixed
from leff.footprint import EXACT, Choice, Footprint
from leff.lora import check_rank, target_shapes
from leff.methods.fedavg import FedAvg
from leff.methods.fedbitfit import FedBitFit
from leff.methods.fedlora import FedLora
from leff.methods.flexlora import FlexLora
from leff.methods.flora import FLora
from leff.methods.leff import Leff
from leff.methods.method import JobWriter, Method
from leff.methods.slora import SLora
from leff.methods.whole import WholeModel
from leff.options import ClientsConfig, ContextConfig
from leff.pace import Pace
from leff.sampling import BlockSampler, Rule
from leff.sizes import model_sizes
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds

Batches = Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class MethodRecipe:
    """How a method is built, and whether it needs public proxy data."""

    build: Callable[[RunConfig, JobWriter, Batches, Any], Method]  # the last: the model
    uses_proxy: bool = False


def _leff(config: RunConfig, writer: JobWriter, proxy: Batches, model: Any) -> Method:
    _refuse_ranks(config)
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
    if context.name != "auto" and clients.fleet is None:
        return Fixed(fixed_setting(context).context)
    found, limit = timed_candidates(config, kind, model)
    for memory_bytes, step_flops in set(client_budgets(clients)):
        choose(found, dict.fromkeys(found, 0.0), memory_bytes, step_flops)
    known = {} if context.name == "auto" else dict.fromkeys(found, 0.0)
    bank = Bank(replace(distillation, seconds=0.0))  # no clock: resumable
    return Auto(found, bank, proxy, limit, known)


def timed_candidates(config: RunConfig, kind: str, model: Any) -> tuple[list[Candidate], TimeLimit]:
    """Return what LEFF's clients choose from, one context or all, and the time that it takes."""
    context, training = config.context, config.training
    asked = Choice(
        embedding_bits=context.embedding_bits,
        batch_size=training.batch_size,
        length=config.data.max_length,
    )
    contexts = () if context.name == "auto" else (fixed_setting(context),)
    sizes = model_sizes(model, kind)
    found = candidates(sizes, asked, contexts=contexts)
    seconds = deadline_seconds(config.clients)
    needs = {} if seconds is None else candidate_needs(sizes, found, asked)
    share = config.clients.min_steps_share
    return found, TimeLimit(seconds, share, needs, training.epochs, training.batch_size)


def fixed_setting(context: ContextConfig) -> Setting:
    """Return the setting of a configuration whose context is not auto."""
    rate = 1.0 if {context.name, context.suffix} <= {"quantise", ""} else context.rate
    return Setting(context.name, rate, context.bits, context.suffix)


def deadline_seconds(clients: ClientsConfig) -> float | None:
    return parse_seconds(clients.deadline) if clients.deadline else None


def make_pace(config: RunConfig, kind: str, model: Any) -> Pace:
    """Return what a run's jobs are weighed by."""
    adapters = config.method.name in ("fedlora", "flexlora")
    whole = shell_bits(config.method.base_bits) if adapters else 32
    return Pace(
        model_sizes(model, kind),
        config.context.embedding_bits if config.method.name == "leff" else whole,
        config.data.max_length,
        deadline_seconds(config.clients),
        config.clients.min_steps_share,
    )


def check_deadline(config: RunConfig, kind: str, model: Any, examples: Sequence[int]) -> None:
    """Raise ConfigError if the deadline leaves no client that can take part.

    `examples` are the clients' numbers.  What is sent once, before the first round, has time.
    """
    seconds, devices = deadline_seconds(config.clients), client_devices(config.clients)
    if seconds is None:
        return
    found, limit = timed_candidates(config, kind, model)
    if config.method.name != "leff":  # one thing to do, at its size
        footprint = _footprint(config, model, kind, config.method.rank)
        found = [replace(found[0], state_bytes=footprint.state_bytes)]
        limit = replace(limit, needs={found[0]: footprint_needs(footprint)})
    times = [
        limit.least_seconds(candidate, device, count)
        for device, count in set(zip(devices, examples, strict=True))
        for candidate in found
        if candidate.state_bytes <= device.memory_bytes
    ]
    least = min(times, default=0.0)  # a fleet without the memory is refused elsewhere
    if least > seconds:
        raise ConfigError(
            f"clients.deadline = {config.clients.deadline!r} leaves no client of this fleet: "
            f"{config.clients.min_steps_share:.0%} of the steps with {config.method.name} take "
            f"{least:.3g} s on the fastest"
        )


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

    Raises ConfigError for a rank that the model has no room for, and memory that has none for 1.
    """
    clients, targets = config.clients, target_shapes(model)
    given = clients.ranks or [config.method.rank]
    for rank in given:
        check_rank(targets, rank, "clients.ranks" if clients.ranks else "method.rank")
    if clients.ranks or not (clients.memory or clients.fleet):
        return tuple(itertools.islice(itertools.cycle(given), clients.count))
    sizes = [
        (rank, _footprint(config, model, kind, rank).state_bytes)
        for rank in range(1, config.method.rank + 1)
    ]
    budgets = [memory for memory, _ in client_budgets(clients)]
    _refuse_memory(config, budgets, sizes[0][1])
    return tuple(
        max((rank for rank, size in sizes if memory is None or size <= memory), default=1)
        for memory in budgets
    )


def _refuse_ranks(config: RunConfig) -> None:
    if config.clients.ranks:
        raise ConfigError(
            f"clients.ranks cannot be used by {config.method.name}, which has no ranks by client; "
            "use flora or flexlora, or leave it out"
        )


def _check_memory(config: RunConfig, model: Any, kind: str) -> None:
    """Raise ConfigError for what clients cannot do with this method, in which all are alike."""
    _refuse_ranks(config)
    if not (config.clients.memory or config.clients.fleet):
        return
    needed = _footprint(config, model, kind, config.method.rank).state_bytes
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


def _footprint(config: RunConfig, model: Any, kind: str, rank: int) -> Footprint:
    method = config.method
    asked = Choice(
        rank=rank,
        base_bits=method.base_bits,
        context=EXACT,
        clients=max(1, round(config.clients.count * config.clients.per_round)),
        batch_size=config.training.batch_size,
        length=config.data.max_length,
    )
    return FOOTPRINTS[method.name](model, model_sizes(model, kind), asked)


def _too_little(key: str, method: str, memory_bytes: int, needed: int) -> str:
    return (
        f"{key}: {memory_bytes / 1e6:.1f} MB is too little for {method}, whose clients "
        f"hold {needed / 1e6:.1f} MB at least; use leff with context.name = 'auto', or leave out "
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


def client_devices(clients: ClientsConfig) -> tuple[Device, ...]:
    """Return every client's device, none without a fleet file.  ConfigError as `read_classes`."""
    if clients.fleet is None:
        return ()
    return fleet_devices(read_classes(Path(clients.fleet)))


def with_fleet_count(config: RunConfig) -> RunConfig:
    """Return the configuration with as many clients as its fleet file has devices.

    Raises ConfigError if clients.count was given and is another number.
    """
    clients = config.clients
    count = len(client_devices(clients))
    if clients.fleet is None or clients.count == count:
        return config
    if "count" in clients.model_fields_set:
        raise ConfigError(
            f"clients.count = {clients.count}, but {clients.fleet} has {count} devices; leave out "
            "clients.count, or change the counts of the classes"
        )
    return config.model_copy(update={"clients": clients.model_copy(update={"count": count})})


def client_budgets(clients: ClientsConfig) -> list[tuple[int | None, int | None]]:
    """Return every client's bytes of training state and operations of a step, None if unlimited."""
    if clients.fleet is not None:
        return [(device.memory_bytes, None) for device in client_devices(clients)]
    memory = [parse_amount(text, BYTES) for text in clients.memory] or [None]
    flops = [parse_amount(text, FLOPS) for text in clients.flops] or [None]
    return list(
        itertools.islice(
            zip(itertools.cycle(memory), itertools.cycle(flops), strict=False), clients.count
        )
    )
