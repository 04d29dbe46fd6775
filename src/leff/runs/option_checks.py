"""What options must be to one another; each option's own range is in `options.py`.

check_together(config)       # ValueError for two values that do not fit
"""

from typing import TYPE_CHECKING

from leff.errors import ConfigError, shown
from leff.runs.privacy_checks import check_privacy
from leff.units import BYTES, FLOPS, parse_amount, parse_seconds

if TYPE_CHECKING:
    from leff.runs.options import RunConfig

MOST_TOKENS = 2**20  # of a part of a batch: more fit no device, nor the plan of its memory


def check_together(config: "RunConfig") -> None:
    """Raise ValueError for values that do not fit together, with key, value and remedy."""
    if 0 < config.method.relaxation < 1:
        raise ValueError(
            f"method.relaxation must be 0 or at least 1, got {config.method.relaxation}; below "
            "1 the model would lag behind what all clients agree on"
        )
    _check_budgets(config)
    _check_fleet(config)
    _check_network(config)
    _check_accumulation(config)
    held = config.clients.validation_share or config.engine.name == "flower"
    if config.evaluation.where != "server" and not held:
        raise ValueError(
            f"evaluation.where = {config.evaluation.where!r} needs clients.validation_share above "
            "0, or clients have nothing to measure on"
        )
    check_privacy(config)
    engine = config.engine
    if engine.ray and engine.workers:
        raise ValueError(
            f"engine.ray = {shown(engine.ray)} and engine.workers = {engine.workers} both say how "
            "many clients work at a time; leave out engine.workers, and set engine.client_cpus"
        )
    if config.method.together and config.method.sampling == "fixed":
        raise ValueError(
            "method.sampling = 'fixed' keeps each client at its own block, and method.together "
            "puts all in one place; use importance, random or round_robin"
        )
    if min(config.clients.layers, default=1) < 1:
        raise ValueError(
            f"clients.layers must be at least 1 each, got {min(config.clients.layers)}; "
            "a client that can train no layer cannot take part"
        )


def _check_accumulation(config: "RunConfig") -> None:
    parts, size = config.training.accumulation, config.training.batch_size
    if size % parts:
        divisors = [str(number) for number in range(1, size + 1) if size % number == 0]
        raise ValueError(
            f"training.accumulation = {parts} does not divide training.batch_size = {size}; "
            f"these do: {', '.join(divisors)}"
        )
    tokens = size // parts * config.data.max_length
    if tokens > MOST_TOKENS:
        raise ValueError(
            f"training.batch_size · data.max_length = {size} · {config.data.max_length} in "
            f"{parts} part{'s' if parts > 1 else ''} is {tokens} tokens at once, the most is "
            f"{MOST_TOKENS}; lower one, or raise training.accumulation"
        )


def _check_fleet(config: "RunConfig") -> None:
    clients, default = config.clients, type(config.clients)()
    if clients.fleet:
        for key in ("layers", "memory", "flops"):
            value = getattr(clients, key)
            if value != getattr(default, key):
                raise ValueError(
                    f"clients.fleet and clients.{key} = {shown(value)} both say what devices "
                    "can do; remove one"
                )
    if clients.deadline and not clients.fleet:
        raise ValueError(
            f"clients.deadline = {shown(clients.deadline)} needs clients.fleet, a file that "
            "says how fast the devices are"
        )
    if clients.deadline:
        try:
            parse_seconds(clients.deadline)
        except ConfigError as error:
            raise ValueError(f"clients.deadline: {error}") from None


def _check_network(config: "RunConfig") -> None:
    """Check what only devices on a network have; of them nothing is known beforehand."""
    for key in ("wait", "deadline"):
        try:
            parse_seconds(getattr(config.engine, key))
        except ConfigError as error:
            raise ValueError(f"engine.{key}: {error}") from None
    if config.engine.name != "flower":
        return
    for key in ("fleet", "memory", "flops", "ranks"):
        value = getattr(config.clients, key)
        if value:
            raise ValueError(
                f"clients.{key} = {shown(value)} is for simulated clients; devices on a network "
                "say themselves what they have (docs/do/server.md), so leave it out"
            )


def _check_budgets(config: "RunConfig") -> None:
    clients, auto = config.clients, config.context.name == "auto"
    for key, amounts, units in (
        ("clients.memory", clients.memory, BYTES),
        ("clients.flops", clients.flops, FLOPS),
    ):
        for amount in amounts:
            try:
                parse_amount(amount, units)
            except ConfigError as error:
                raise ValueError(f"{key}: {error}") from None
    if auto and not (clients.memory or clients.flops or clients.fleet):
        raise ValueError(
            "context.name = 'auto' needs clients.memory or clients.flops, such as ['64MB'], "
            "or clients.fleet"
        )
    if auto and config.context.suffix:
        raise ValueError(
            f"context.suffix = {config.context.suffix!r} cannot be combined with context auto, "
            "which chooses both sides; remove one"
        )
