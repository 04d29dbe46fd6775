"""From options to the privacy of a run: who takes part, the noise of a round, and what is spent.

privacy = make_privacy(config, method, folder)         # None if it is off
privacy.choose(clients, round_index)
privacy.merge(method, model, context, spool)
privacy.epsilon                                        # spent so far
"""

import hashlib
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from leff.errors import ConfigError
from leff.extras import need
from leff.files import file_digest, write_atomically
from leff.methods.method import Method, RoundContext, SingleUpdateMethod
from leff.methods.noisy import Mechanism, noisy_means
from leff.privacy.accountant import Release, epsilon, noise_for
from leff.privacy.ledger import Entry, Ledger
from leff.privacy.noise import Noise, fresh_key, seeded_key
from leff.runs.folder import RunFolder
from leff.runs.options import PrivacyConfig, RunConfig
from leff.wire.messages import Update
from leff.wire.spool import Spool

log = logging.getLogger("leff")

LEDGER, KEY = "privacy.json", "privacy.key"
QUANTILE_COST = 1.1  # how much more noise the updates get if the clip follows a quantile
QUANTILE_STEP = 0.2  # of the clip's logarithm, per unit of the quantile's error (Andrew et al.)


class Privacy:
    """What a run releases of its clients: noisy sums, and the count of them."""

    def __init__(
        self, config: RunConfig, ledger: Ledger, noise: float, key_file: Path | None
    ) -> None:
        """`noise` is z; without a `key_file` the key is made of the run's seed."""
        self.settings: PrivacyConfig = config.privacy
        self.noise, self._rate = noise, config.clients.per_round
        self._clients, self._ledger = self._rate * config.clients.count, ledger
        self._key_file, self._seed = key_file, config.seed
        self._source: Noise | None = None

    @property
    def _random(self) -> Noise:
        """The run's noise; its key is made when it is first needed, and kept."""
        if self._source is None:
            if self._key_file is None:
                key = seeded_key(self._seed)
            else:
                if not self._key_file.exists():
                    write_atomically(self._key_file, fresh_key(), secret=True)
                key = self._key_file.read_bytes()
            self._source = Noise(key)
        return self._source

    def choose(self, clients: Sequence[int], index: int) -> list[int]:
        """Return who takes part in round `index` (from 0): each client by its own draw."""
        return [each for each in clients if self._random.takes_part(each, index, self._rate)]

    @property
    def epsilon(self) -> float | None:
        """ε that was spent so far; None without noise."""
        if not self.noise:
            return None
        return epsilon(self._ledger.releases, self.settings.delta)

    def summary(self) -> dict[str, Any]:
        """Return what the whole run has spent, for its result: ε, δ, noise, rate and clip."""
        return {
            "epsilon": self.epsilon,
            "delta": self.settings.delta,
            "noise": self.noise,
            "rate": self._rate,
            "clip": self.settings.clip,
            "reproducible": self.settings.reproducible,
        }

    def allows(self) -> bool:
        """Return whether one more round keeps the budget; without `privacy.stop` always."""
        most = self.settings.epsilon
        if not (most and self.settings.stop):
            return True
        more = [*self._ledger.releases, Release(self.noise, self._rate)]
        return epsilon(more, self.settings.delta) <= most

    def merge(self, method: Method, model: nn.Module, context: RoundContext, spool: Spool) -> None:
        """Merge a round's updates with noise, in place, after the ledger has counted it."""
        assert not isinstance(method, SingleUpdateMethod), "make_privacy refuses it"
        updates, number = spool.files(), context.index + 1
        inputs = _digest(updates)
        clip = self._ledger.clip(number, self.settings.clip)

        def draw(count: int, label: str) -> Any:
            return self._random.normal(count, "sum", number, inputs, label)

        norms = [update.norm or 0.0 for update, _ in updates]
        follows = bool(self.settings.quantile)
        entry = Entry(
            round=number,
            inputs=inputs,
            noise=self.noise,
            rate=self._rate,
            clip=clip,
            next_clip=self._next_clip(clip, norms, draw(1, "norms")[0]) if follows else clip,
        )
        self._ledger.add(entry)
        noise = self.noise * (QUANTILE_COST if follows else 1.0)
        mechanism = Mechanism(clip, noise, self._clients)
        opened = method.opened(model, context)
        method.merge(model, noisy_means(opened, updates, mechanism, draw))

    def _next_clip(self, clip: float, norms: Sequence[float], drawn: float) -> float:
        """Return the clip moved towards the quantile of the norms (Andrew et al. 2021).

        What is released is a sum of 1/2 for each client below the clip and -1/2 for each above,
        with noise.  Together with updates that have `QUANTILE_COST` times the noise it tells as
        much as one sum with the noise z.
        """
        deviation = self.noise / 2 / math.sqrt(1 - QUANTILE_COST**-2)
        halves = sum(0.5 if norm <= clip else -0.5 for norm in norms) + deviation * float(drawn)
        below = 0.5 + halves / self._clients
        return clip * math.exp(-QUANTILE_STEP * (below - self.settings.quantile))


def _digest(updates: Sequence[tuple[Update, Path]]) -> str:
    """Return a digest of what clients sent."""
    sent = [f"{update.client} {update.norm} {file_digest(file)}" for update, file in updates]
    return hashlib.sha256("\n".join(sent).encode()).hexdigest()


def make_privacy(config: RunConfig, method: Method, folder: RunFolder) -> Privacy | None:
    """Return the privacy of a run, or None if it is off; nothing is written yet.

    Raises ConfigError for a method whose merge cannot be noised, for a δ that is too large for the
    clients, and for a budget that is spent; CheckpointError for a damaged ledger.
    """
    settings, count = config.privacy, config.clients.count
    if not settings.on:
        return None
    need("privacy", "the count of ε")
    if isinstance(method, SingleUpdateMethod) or not hasattr(method, "opened"):
        raise ConfigError(
            f"privacy cannot be used with {method.name}, whose merge needs single updates; use "
            "leff, fedavg, fedbitfit, fedlora or slora"
        )
    if settings.noise != 0 and settings.delta * count >= 1:
        raise ConfigError(
            f"privacy.delta = {settings.delta:g} must be below 1 / {count} clients = "
            f"{1 / count:g}, or it allows to give one client's data away"
        )
    ledger = Ledger(folder.path / LEDGER, _spent_before(config))
    rate, rounds = config.clients.per_round, config.training.rounds
    noise = settings.noise
    if noise is None:
        noise = noise_for(settings.epsilon, settings.delta, rate, rounds, ledger.before)
    privacy = Privacy(config, ledger, noise, None if settings.reproducible else folder.path / KEY)
    if not (ledger.entries or privacy.allows()):
        raise ConfigError(
            f"privacy.noise = {noise:g} leaves no round within privacy.epsilon = "
            f"{settings.epsilon:g}; raise one of them"
        )
    if settings.reproducible:
        log.warning("privacy.reproducible: who knows the seed can take the noise away again")
    return privacy


def _spent_before(config: RunConfig) -> list[Release]:
    """Return the releases of the run whose model this run starts from."""
    start = Path(config.model.name)
    start = start.parent if start.name == "model" else start
    with suppress(OSError):
        if (start / "config.toml").exists():
            _, own = RunFolder.open(start)
            if own.privacy.on:
                return Ledger(start / LEDGER).releases
            log.warning(
                "%s was trained without privacy; what it learnt of these clients is not counted",
                start,
            )
    return []
