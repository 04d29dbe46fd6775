"""From a configuration to its devices: budgets, what fits their time, what jobs are weighed by.

devices = client_devices(config.clients)
pace = make_pace(config, kind, model)
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leff.choices import choice_of, fixed_setting
from leff.config import RunConfig
from leff.context.auto import Candidate, candidates
from leff.cost import METHODS as FOOTPRINTS
from leff.deadline import TimeLimit, candidate_needs, footprint_needs
from leff.devices import Device, fleet_devices, read_classes
from leff.errors import ConfigError
from leff.footprint import Footprint, shell_bits
from leff.options import ClientsConfig
from leff.pace import Pace
from leff.sizes import model_sizes
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds


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


def timed_candidates(config: RunConfig, kind: str, model: Any) -> tuple[list[Candidate], TimeLimit]:
    """Return what LEFF's clients choose from, one context or all, and the time that it takes."""
    context, training = config.context, config.training
    asked = choice_of(config, "leff")
    contexts = () if context.name == "auto" else (fixed_setting(context),)
    sizes = model_sizes(model, kind)
    found = candidates(sizes, asked, contexts=contexts)
    seconds = deadline_seconds(config.clients)
    needs = {} if seconds is None else candidate_needs(sizes, found, asked)
    share = config.clients.min_steps_share
    return found, TimeLimit(seconds, share, needs, training.epochs, training.batch_size)


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
        footprint = method_footprint(config, model, kind, _least_rank(config))
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


def _least_rank(config: RunConfig) -> int:
    """Return the smallest rank that a client may have."""
    if config.method.name in ("flora", "flexlora"):
        return min(config.clients.ranks, default=1)
    return config.method.rank


def method_footprint(config: RunConfig, model: Any, kind: str, rank: int) -> Footprint:
    """Return what a client of the run's method holds and computes, with adapters of this rank."""
    asked = choice_of(config, config.method.name, rank=rank)
    return FOOTPRINTS[config.method.name](model, model_sizes(model, kind), asked)
