"""What a configuration says of its clients: setups, devices, budgets and deadlines.

setup_of(config, spec, layers=2).context
devices = client_devices(config.clients)
limits = make_limits(config, kind, model)
"""

import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from leff.capacity.candidates import Candidate, Setting, with_checkpointing
from leff.capacity.clock import Needs
from leff.capacity.deadline import TimeLimit, candidate_needs, footprint_needs
from leff.capacity.fleet_file import fleet_devices, read_classes
from leff.capacity.peak import fitted, peaks_of
from leff.capacity.plan import client_plan
from leff.capacity.schedule import Limits
from leff.capacity.sizes import Sizes, model_sizes
from leff.errors import ConfigError
from leff.methods.registry import MethodSpec, spec_of
from leff.methods.setup import ClientSetup
from leff.methods.stand_ins import EXACT
from leff.runs.options import ClientsConfig, ContextConfig, RunConfig
from leff.tasks.load import own_files
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds, share_of
from leff.wire.messages import Capacity, Device

log = logging.getLogger("leff")

UNSAID = (1, 1, 2, 2, 3, 3, 4, 6)  # L_i of clients on this machine if `clients.layers` is not given


def setup_of(config: RunConfig, spec: MethodSpec, **numbers: int) -> ClientSetup:
    """Return a client's setup by the configuration; `numbers` replace layers, rank, base_bits.

    With context auto nothing is chosen yet, so the layers around the block count as exact.
    """
    context, clients = config.context, config.clients
    return ClientSetup(
        **{"rank": config.method.rank, "base_bits": config.method.base_bits, **numbers},
        context=EXACT if context.name == "auto" else fixed_setting(context).context,
        clients=share_of(clients.count, clients.per_round),
        embedding_bits=context.embedding_bits if spec.trains_blocks else 32,
        step=config.training.step,
        length=config.data.max_length,
        upload=config.engine.upload,
    )


def fixed_setting(context: ContextConfig) -> Setting:
    """Return the setting of a configuration whose context is not auto."""
    rate = 1.0 if {context.name, context.suffix} <= {"quantise", ""} else context.rate
    return Setting(context.name, rate, context.bits, context.suffix)


def client_devices(clients: ClientsConfig) -> tuple[Device, ...]:
    """Return every client's device, or () without a fleet file.  Raises as `read_classes`."""
    if clients.fleet is None:
        return ()
    return fleet_devices(read_classes(Path(clients.fleet)))


def with_fleet_count(config: RunConfig) -> RunConfig:
    """Return the configuration with as many clients as its fleet file has devices.

    Raises ConfigError if clients.count is given and differs from that.
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


def with_file_clients(config: RunConfig) -> RunConfig:
    """Return the configuration with a client for each train file, if there are several.

    Raises ConfigError if clients.count is given and differs, and for the partition ``files``
    without train files; DataError for a pattern that no file fits.
    """
    clients, given = config.clients, config.data.train
    files = [] if given is None else own_files(given)
    if len(files) < 2 and clients.partition != "files":
        return config
    if not files:
        raise ConfigError("clients.partition = 'files' needs data.train, a list or a pattern")
    count = len(files)
    if clients.count != count and (clients.fleet or "count" in clients.model_fields_set):
        raise ConfigError(
            f"clients.count = {clients.count}, but data.train has {count} files, a client each; "
            + ("change the counts of the fleet's classes" if clients.fleet else "leave it out")
        )
    if "partition" in clients.model_fields_set and clients.partition != "files":
        log.warning(
            "clients.partition = %r has no effect: each of the %d files of data.train is a client; "
            "for another division, put the rows in one file",
            clients.partition,
            count,
        )
    update = {"count": count, "partition": "files"}
    if "min_examples" not in clients.model_fields_set:
        update["min_examples"] = 1
    return config.model_copy(update={"clients": clients.model_copy(update=update)})


def with_fewest_examples(config: RunConfig, examples: int) -> RunConfig:
    """Return the configuration with a clients.min_examples that `examples` allow.

    Unless it was given, it is at most half of an even share.
    """
    clients = config.clients
    least = max(1, min(clients.min_examples, examples // (2 * clients.count)))
    if "min_examples" in clients.model_fields_set or least == clients.min_examples:
        return config
    log.info(
        "clients.min_examples is %d, not %d: there are %d examples for %d clients",
        least,
        clients.min_examples,
        examples,
        clients.count,
    )
    update = {"min_examples": least}
    return config.model_copy(update={"clients": clients.model_copy(update=update)})


def client_budgets(clients: ClientsConfig) -> list[tuple[int | None, int | None]]:
    """Return every client's budgets for a step: bytes and operations, None if unlimited."""
    if clients.fleet is not None:
        return [(device.memory_bytes, None) for device in client_devices(clients)]
    memory = [parse_amount(text, BYTES) for text in clients.memory] or [None]
    flops = [parse_amount(text, FLOPS) for text in clients.flops] or [None]
    pairs = zip(itertools.cycle(memory), itertools.cycle(flops), strict=False)
    return list(itertools.islice(pairs, clients.count))


def layers_in_turn(clients: ClientsConfig, total: int) -> list[int]:
    """Return the L_i that the clients have in turn, or `UNSAID`, of which none is above `total`."""
    return clients.layers or [min(number, total) for number in UNSAID]


def client_layers(config: RunConfig, spec: MethodSpec, total: int) -> tuple[int, ...]:
    """Return L_i of every client; ConfigError for one outside [1, L].

    L_i is all layers if the method trains no blocks, and if a fleet file sets the budgets.
    """
    clients = config.clients
    layers = layers_in_turn(clients, total)
    layers = layers if spec.trains_blocks and clients.fleet is None else [total]
    outside = [number for number in layers if not 1 <= number <= total]
    if outside:
        raise ConfigError(
            f"clients.layers must be 1 to {total}, the model's number of layers, got {outside[0]}"
        )
    return tuple(itertools.islice(itertools.cycle(layers), clients.count))


def client_reports(
    clients: ClientsConfig,
    layers: Sequence[int],
    examples: Sequence[int],
    validation: Sequence[int],
) -> list[Capacity]:
    """Return each client's report, the same in every round; numbers are by client."""
    devices = client_devices(clients) or itertools.repeat(None)
    each = zip(layers, examples, validation, client_budgets(clients), devices, strict=False)
    return [
        Capacity(client, count, own, memory_bytes, step_flops, device, validation=held)
        for client, (count, own, held, (memory_bytes, step_flops), device) in enumerate(each)
    ]


def timed_candidates(config: RunConfig, kind: str, model: Any) -> tuple[list[Candidate], TimeLimit]:
    """Return the candidates of LEFF's clients, and the time limit with each candidate's needs."""
    context = config.context
    asked = setup_of(config, spec_of("leff"))
    contexts = () if context.name == "auto" else (fixed_setting(context),)
    sizes = model_sizes(model, kind)
    candidates = with_checkpointing(sizes, asked, contexts)
    seconds = deadline_seconds(config)
    needs = {} if seconds is None else candidate_needs(sizes, candidates, asked)
    limit = time_limit(config, sizes, seconds, needs)
    return candidates, limit


def time_limit(
    config: RunConfig, sizes: Sizes, seconds: float | None, needs: Mapping[Candidate, Needs]
) -> TimeLimit:
    """Return a round's time limit, with the steps that the configuration wants."""
    training = config.training
    return TimeLimit(
        seconds,
        config.clients.min_steps_share,
        needs,
        training.given_epochs,
        training.batch_size,
        full_flops(config, sizes),
    )


def full_flops(config: RunConfig, sizes: Sizes) -> int:
    """Return the operations of a step of full training, if clients are to do as many; else 0."""
    if config.training.epochs != "auto":
        return 0
    return sizes.full_step_flops(config.training.batch_size, config.data.max_length)


def deadline_seconds(config: RunConfig) -> float | None:
    """Return the time that a client's round has: on the virtual clock, or of a real device."""
    if config.engine.name == "flower":
        return parse_seconds(config.engine.deadline)
    return parse_seconds(config.clients.deadline) if config.clients.deadline else None


def make_limits(config: RunConfig, kind: str, model: Any) -> Limits:
    """Return the limits by which a run's jobs are scheduled."""
    sizes = model_sizes(model, kind)
    return Limits(
        sizes,
        setup_of(config, spec_of(config.method.name)),
        deadline_seconds(config),
        config.clients.min_steps_share,
        full_flops(config, sizes),
    )


def check_deadline(config: RunConfig, kind: str, model: Any, examples: Sequence[int]) -> None:
    """Raise ConfigError if no client can do its fewest steps within the deadline.

    `examples` are counts, by client.  The deadline does not cover the setup before round one.
    """
    seconds, devices = deadline_seconds(config), client_devices(config.clients)
    if seconds is None:
        return
    candidates, limit = timed_candidates(config, kind, model)
    least = math.inf
    for device, count in set(zip(devices, examples, strict=True)):
        for needs in _needs_within(config, kind, model, device, candidates, limit):
            least = min(least, limit.least_seconds(needs, device, count))
            if least <= seconds:
                return
    if least < math.inf:  # build_method refuses a fleet without enough memory
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
    candidates: Sequence[Candidate],
    limit: TimeLimit,
) -> Iterator[Needs]:
    """Yield the needs of each candidate that fits the device's memory, the quickest first."""
    spec = spec_of(config.method.name)
    if spec.trains_blocks:
        peaks = peaks_of(model.config, kind, spec, setup_of(config, spec))
        for candidate in sorted(candidates, key=lambda c: limit.needs[c].step_flops):
            if peaks.estimate(candidate) <= device.memory_bytes:
                yield limit.needs[candidate]
        return
    ranks = {"rank": min(config.clients.ranks, default=1)} if spec.ranks_by_client else {}
    with suppress(ConfigError):
        asked = setup_of(config, spec, **ranks)
        setup = fitted(model.config, kind, spec, asked, device.memory_bytes)
        yield footprint_needs(client_plan(model.config, kind, spec, setup).footprint)
