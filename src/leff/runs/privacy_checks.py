"""What options must be for the noise to bound what one client tells.

check_privacy(config)       # ValueError for a value that would leave the bound unproven
"""

from math import ceil
from typing import TYPE_CHECKING, Any

from leff.errors import shown
from leff.units import share_of

if TYPE_CHECKING:
    from leff.runs.options import RunConfig

_NEEDS = {"stop": "epsilon", "least_cohort": "secure_sums", "threshold": "secure_sums"}


def check_privacy(config: "RunConfig", counted: bool = False) -> None:
    """Raise ValueError for values that do not fit privacy, with key, value and remedy.

    `counted` says that clients.count is that of the fleet, or of the files, if there are any.
    """
    privacy, default = config.privacy, type(config.privacy)()
    if not privacy.on:
        for key in type(privacy).model_fields:
            value = getattr(privacy, key)
            if value != getattr(default, key):
                raise ValueError(
                    f"privacy.{key} = {shown(value)} does nothing alone; set privacy.epsilon, or "
                    "privacy.noise"
                )
        return
    for key, needed in _NEEDS.items():
        value = getattr(privacy, key)
        if value != getattr(default, key) and not getattr(privacy, needed):
            raise ValueError(
                f"privacy.{key} = {shown(value)} does nothing without privacy.{needed}; set that, "
                f"or leave privacy.{key} out"
            )
    if privacy.epsilon and privacy.noise == 0:
        raise ValueError(
            f"privacy.epsilon = {privacy.epsilon:g} cannot be kept with privacy.noise = 0; leave "
            "out privacy.noise, and the least that keeps it is found"
        )
    if privacy.secure_sums:
        _check_sums(config, counted)
    if privacy.replaced and privacy.quantile:
        raise ValueError(
            f"privacy.quantile = {privacy.quantile:g} needs the clients' true norms, which devices "
            "that add noise, or hold their updates, do not send; set privacy.clip"
        )
    if privacy.where == "device" and config.engine.name == "flower-simulation":
        raise ValueError(
            "privacy.where = 'device' is for engine local, or flower with real devices; on Ray the "
            "noise would not outlive a kill"
        )
    if privacy.quantile and privacy.noise == 0:
        raise ValueError(
            f"privacy.quantile = {privacy.quantile:g} needs noise, or the clip itself tells of "
            "clients; leave out privacy.noise"
        )
    if config.engine.name == "flower" and "count" not in config.clients.model_fields_set:
        raise ValueError(
            "clients.count must be given for privacy on a network: how many devices there are; the "
            "noise is for so many, whoever is there in a round"
        )
    _check_proxy(config)
    for key, value, allowed, why in _needed(config):
        if value not in allowed:
            remedy = " or ".join(map(shown, allowed))
            raise ValueError(
                f"{key} = {shown(value)} cannot be used with privacy, as {why}; it must be {remedy}"
            )


def _check_proxy(config: "RunConfig") -> None:
    data, proxy = config.data, config.proxy
    same = (proxy.task, proxy.folder, proxy.train) == (data.task, data.folder, data.train)
    # The built-in task has a public stream, and on a network the server's data are its own.
    public = data.task == "sample" or config.engine.name == "flower"
    if same and config.method.name == "leff" and not public:
        raise ValueError(
            f"proxy.task = {shown(proxy.task)} is the clients' own data, and what is drawn from "
            "proxy data has no noise; take public data of another task"
        )


def _check_sums(config: "RunConfig", counted: bool) -> None:
    privacy, clients = config.privacy, config.clients
    if privacy.where == "device":
        raise ValueError(
            "privacy.secure_sums is of no use with privacy.where = 'device', whose noise hides "
            "each update already; leave one out"
        )
    if config.engine.upload != "full":
        raise ValueError(
            f"engine.upload = {config.engine.upload!r} cannot be used with privacy.secure_sums, "
            "whose values are whole numbers of 4 bytes; it must be 'full'"
        )
    present, least = share_of(clients.count, clients.per_round), privacy.least_cohort
    needed, quorum = ceil(least / clients.per_round), config.engine.quorum
    if config.engine.name == "flower" and share_of(quorum, clients.per_round) < least:
        raise ValueError(
            f"engine.quorum = {quorum} lets a round begin in which fewer than "
            f"privacy.least_cohort = {least} clients train; set engine.quorum to {needed} at least"
        )
    if present < least and (counted or (clients.fleet is None and config.data.train is None)):
        raise ValueError(
            f"privacy.least_cohort = {least} is never met: a round has {present} of "
            f"{clients.count} clients; have at least {needed} (clients.count), or more of them in "
            "a round (clients.per_round)"
        )


def _needed(config: "RunConfig") -> list[tuple[str, Any, tuple[Any, ...], str]]:
    """Return keys with their values, what these may be with privacy, and why."""
    method, context = config.method, config.context
    rows: list[tuple[str, Any, tuple[Any, ...], str]] = [
        ("method.weights", method.weights, ("equal",), "a client's weight must not tell its size"),
        ("method.most_weight", method.most_weight, (1.0,), "all clients weigh the same"),
        ("method.merge", method.merge, ("mean",), "noise is for sums"),
        ("method.clip_norm", method.clip_norm, (0.0,), "privacy.clip is the bound"),
        (
            "training.levelled",
            config.training.levelled,
            (False,),
            "devices would tell what labels they have",
        ),
        (
            "evaluation.where",
            config.evaluation.where,
            ("server",),
            "devices' figures are not noised",
        ),
        (
            "evaluation.gap_clients",
            config.evaluation.gap_clients,
            (0,),
            "single updates would be measured",
        ),
        ("engine.spare", config.engine.spare, (0.0,), "who is quick would decide who counts"),
    ]
    if config.method.name != "leff":
        return rows
    clients, remote = config.clients, config.engine.name == "flower"
    unknown = clients.fleet is not None or (remote and not clients.layers)
    distil = ("context.name", context.name, ("quantise", "drop"), "students of blocks whose size "
              "devices set would tell who takes part")  # fmt: skip
    return [
        *rows,
        *([distil] if unknown else []),
        ("method.source", method.source, ("proxy",), "devices' importance is not noised"),
        ("method.together", method.together, (True,), "blocks must not tell who takes part"),
        (
            "context.name",
            context.name,
            ("quantise", "drop", "distil"),
            "its choices depend on who takes part",
        ),
        ("context.seconds", context.seconds, (0.0,), "a clock would decide what all clients get"),
    ]
