"""From options to the privacy of a run, with the noise that keeps its budget.

privacy = make_privacy(config, folder)                 # None if it is off
"""

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from leff.errors import CheckpointError, ConfigError
from leff.extras import need
from leff.files import write_atomically
from leff.methods.method import Method, SingleUpdateMethod
from leff.privacy.accountant import Release, noise_for
from leff.privacy.gaussian import gaussian_noise
from leff.privacy.ledger import Ledger
from leff.privacy.noise import Noise, fresh_key, seeded_key
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.runs.privacy_checks import check_privacy
from leff.runs.private_rounds import DeviceNoise, Privacy, ServerNoise, Summed, releases

log = logging.getLogger("leff")

LEDGER, KEY = "privacy.json", "privacy.key"


def run_noise(config: RunConfig, folder: Path) -> Noise:
    """Return a run's source of noise, with a key that is made once and kept in its folder."""
    return Noise(seeded_key(config.seed) if config.privacy.reproducible else _kept_key(folder))


def _kept_key(folder: Path) -> bytes:
    path = folder / KEY
    if not path.exists():
        if (folder / LEDGER).exists():
            raise CheckpointError(
                f"{path} is lost: a round done again would release the same sums with other noise; "
                "put it back, or start a new run"
            )
        write_atomically(path, fresh_key(), secret=True)
    return path.read_bytes()


def make_privacy(config: RunConfig, folder: RunFolder) -> Privacy | None:
    """Return the privacy of a run, or None if it is off; nothing is written yet.

    Raises ConfigError for a δ that is too large for the clients, and for a budget that is spent;
    CheckpointError for a damaged ledger.
    """
    settings, count = config.privacy, config.clients.count
    if not settings.on:
        return None
    if settings.noised:
        need("privacy", "the count of ε")
    if settings.noised and settings.noise != 0 and settings.delta * count >= 1:
        raise ConfigError(
            f"privacy.delta = {settings.delta:g} must be below 1 / {count} clients = "
            f"{1 / count:g}, or it allows to give one client's data away"
        )
    if settings.reproducible:
        log.warning("privacy.reproducible: who knows the seed can take the noise away again")
    try:
        check_privacy(config, counted=True)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    before = _spent_before(config)
    ledger = Ledger(folder.path / LEDGER, before or ())
    if not ledger.entries and any(record.epsilon for record in folder.records()[1:]):
        raise CheckpointError(
            f"{folder.path / LEDGER} is lost, and nobody knows what the run has spent; put it "
            "back, or start a new run"
        )
    noise = least_noise(config, ledger.before) if settings.noised else 0.0
    random = cache(lambda: run_noise(config, folder.path))
    privacy: Privacy
    if settings.where == "device":
        privacy = DeviceNoise(config, ledger, noise)
    elif settings.secure_sums:
        privacy = Summed(config, ledger, noise, random)
    else:
        privacy = ServerNoise(config, ledger, noise, random)
    privacy.open_start = before is None
    if not privacy.allows(0):
        raise ConfigError(
            f"privacy.noise = {noise:g} leaves no round within privacy.epsilon = "
            f"{settings.epsilon:g}; raise one of them"
        )
    return privacy


def check_method(config: RunConfig, method: Method) -> None:
    """Raise ConfigError if the method's merge cannot be noised."""
    single = isinstance(method, SingleUpdateMethod) or not hasattr(method, "opened")
    if config.privacy.on and single:
        raise ConfigError(
            f"privacy cannot be used with {method.name}, whose merge needs single updates; use "
            "leff, fedavg, fedbitfit, fedlora or slora"
        )


def least_noise(config: RunConfig, before: Sequence[Release] = ()) -> float:
    """Return the noise that was given, or the least that keeps ε over all rounds.

    Raises ConfigError if what was released `before` has used ε up.
    """
    settings, rounds = config.privacy, config.training.rounds
    if settings.noise is not None:
        return settings.noise
    if not settings.replaced:
        return noise_for(settings.epsilon, settings.delta, config.clients.per_round, rounds, before)
    try:
        spent = sum(release.noise**-2 for release in before)
        return 2 * gaussian_noise(settings.epsilon, settings.delta, rounds, spent)
    except (ValueError, ZeroDivisionError):  # the second: without noise nothing is left
        raise ConfigError(
            f"privacy.epsilon = {settings.epsilon:g} leaves nothing for {rounds} rounds: more was "
            "spent before; raise it, or start from a model that was not trained on these clients"
        ) from None


def _spent_before(config: RunConfig) -> list[Release] | None:
    """Return the releases of the run whose model this run starts from; None for a run without any.

    Raises ConfigError if its noise was added elsewhere, since the two guarantees do not add up.
    """
    start = Path(config.model.name)
    start = start.parent if start.name == "model" else start
    with suppress(OSError):
        if (start / "config.toml").exists():
            own = RunFolder.open(start)[1]
            if own.privacy.noised:
                return _carried(start, own, config)
            log.warning(
                "%s was trained without privacy; what it learnt of these clients is not counted",
                start,
            )
            return None
    return []


def _carried(start: Path, own: RunConfig, config: RunConfig) -> list[Release]:
    if own.privacy.replaced != config.privacy.replaced:
        raise ConfigError(
            f"{start} was trained with privacy.where = {own.privacy.where!r} and "
            f"privacy.secure_sums = {str(own.privacy.secure_sums).lower()}, and ε of the two "
            "cannot be added; use the same, or start from another model"
        )
    if not (start / LEDGER).exists():
        raise ConfigError(
            f"{start / LEDGER} is lost, and nobody knows what {start} has spent; put it back, or "
            "start from another model"
        )
    if own.privacy.reproducible and not config.privacy.reproducible:
        raise ConfigError(
            f"{start} was trained with privacy.reproducible = true: who knows its seed can take "
            "its noise away, so ε does not hold; set it here too, or start from another model"
        )
    ledger = Ledger(start / LEDGER)
    if not own.privacy.replaced:
        return [*ledger.before, *releases(ledger)]
    counts = Counter(client for entry in ledger.entries for client in entry.clients)
    most = max(counts, key=lambda client: counts[client], default=None)
    own_entries = [entry for entry in ledger.entries if most in entry.clients]
    return [*ledger.before, *(Release(entry.noise / 2) for entry in own_entries)]
