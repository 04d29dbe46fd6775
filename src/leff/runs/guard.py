"""From options to the bounds of one client's influence, with what the merge needs.

guard = make_guard(config, method, layers, total, kind)      # layers: L_i, () if unknown
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from leff.errors import ConfigError
from leff.methods.guard import Guard
from leff.methods.method import Method, SingleUpdateMethod
from leff.runs.levelling import is_levelled
from leff.runs.option_types import picked
from leff.runs.options import RunConfig
from leff.units import share_of

log = logging.getLogger("leff")


def make_guard(
    config: RunConfig, method: Method, layers: Sequence[int], total: int, kind: str
) -> Guard:
    """Return the guard of a run; clients train `layers` of the model's `total` layers each.

    Raises ConfigError for a robust merge by a method that needs single updates, or of too few
    clients.  Warns if a layer has too few in most rounds.
    """
    guard = picked(Guard, config.method)
    if config.method.weights == "auto":
        guard = replace(guard, weights="steps" if is_levelled(config, kind) else "examples")
    if guard.merge == "mean":
        return guard
    asked = f"method.merge = {guard.merge!r}"
    if guard.merge == "trimmed_mean":
        asked += f" with method.trim = {guard.trim:g}"
    if isinstance(method, SingleUpdateMethod):
        raise ConfigError(
            f"{asked} cannot be used by {method.name}, whose merge needs single updates; use "
            "fedlora, slora, fedbitfit, fedavg or leff, or bound updates by method.clip_norm"
        )
    if not layers:  # of devices on a network, nobody knows how many will be there
        return guard
    clients = share_of(config.clients.count, config.clients.per_round)
    needed = 2 * guard.cut(clients) + 1
    if clients < needed:
        raise ConfigError(
            f"{asked} needs {needed} clients, and a round has {clients}; have more in a round "
            "(clients.count, clients.per_round), or use method.merge = 'mean'"
        )
    _mention_thin_layers(guard, clients * sum(layers) / len(layers) / total, asked)
    return guard


def _mention_thin_layers(guard: Guard, each: float, asked: str) -> None:
    needed = 2 * guard.cut(max(1, int(each))) + 1
    if each < needed:
        log.warning(
            "a layer is trained by about %.1f clients a round, and %s needs %d; a layer with fewer "
            "keeps its weights in that round (the records say so); more clients, or larger blocks, "
            "help",
            each,
            asked,
            needed,
        )
