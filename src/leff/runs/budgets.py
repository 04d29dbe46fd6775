"""From a configuration to its devices: budgets, what fits their time, what jobs are weighed by.

devices = client_devices(config.clients)
pace = make_pace(config, kind, model)
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leff.capacity.candidates import Candidate, leaner_too
from leff.capacity.clock import Needs
from leff.capacity.deadline import TimeLimit, candidate_needs, footprint_needs
from leff.capacity.fleet_file import fleet_devices, read_classes
from leff.capacity.peak import fitted
from leff.capacity.peaks import peaks_of
from leff.capacity.plan import METHODS as FOOTPRINTS
from leff.capacity.schedule import Pace
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.runs.config import RunConfig
from leff.runs.options import ClientsConfig
from leff.runs.setups import choice_of, fixed_setting
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds
from leff.wire.messages import Device


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
    """Return every client's memory and operations of a step, None if unlimited."""
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
    found = leaner_too(sizes, asked, contexts)
    seconds = deadline_seconds(config.clients)
    needs = {} if seconds is None else candidate_needs(sizes, found, asked)
    share = config.clients.min_steps_share
    return found, TimeLimit(seconds, share, needs, training.epochs, training.batch_size)


def deadline_seconds(clients: ClientsConfig) -> float | None:
    return parse_seconds(clients.deadline) if clients.deadline else None


def make_pace(config: RunConfig, kind: str, model: Any) -> Pace:
    """Return what a run's jobs are weighed by."""
    return Pace(
        model_sizes(model, kind),
        choice_of(config, config.method.name),
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
    least = math.inf
    for device, count in set(zip(devices, examples, strict=True)):
        for needs in _needs_within(config, kind, model, device, found, limit):
            least = min(least, limit.least_seconds(needs, device, count))
            if least <= seconds:
                return
    if least < math.inf:  # a fleet without the memory is refused elsewhere
        raise ConfigError(
            f"clients.deadline = {config.clients.deadline!r} leaves no client of this fleet: "
            f"{config.clients.min_steps_share:.0%} of the steps with {config.method.name} take "
            f"{least:.3g} s on the fastest"
        )


def _needs_within(
    config: RunConfig,
    kind: str,
    model: Any,
    device: Device,
    found: Sequence[Candidate],
    limit: TimeLimit,
) -> Iterator[Needs]:
    """Yield what a round takes of whatever has room on the device, what is quick first."""
    name = config.method.name
    if name == "leff":
        peaks = peaks_of(model.config, kind, choice_of(config, name))
        for candidate in sorted(found, key=lambda c: limit.needs[c].step_flops):
            if peaks.estimate(candidate) <= device.memory_bytes:
                yield limit.needs[candidate]
        return
    asked = choice_of(config, name, rank=_least_rank(config))
    with suppress(ConfigError):
        choice = fitted(model.config, kind, name, asked, device.memory_bytes)
        yield footprint_needs(FOOTPRINTS[name](model, model_sizes(model, kind), choice))


def _least_rank(config: RunConfig) -> int:
    """Return the smallest rank that a client may have."""
    if config.method.name in ("flora", "flexlora"):
        return min(config.clients.ranks, default=1)
    return config.method.rank
