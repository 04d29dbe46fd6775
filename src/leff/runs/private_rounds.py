"""What a run with privacy does in a round: who takes part, and how updates are merged.

privacy.choose(clients, round_index)
privacy.merge(method, model, context, server, fleet)
privacy.epsilon                                        # spent so far
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leff.errors import BudgetError
from leff.files import file_digest
from leff.methods.guard import Guard
from leff.methods.method import Method, Opened, RoundContext, SingleUpdateMethod, merge_round
from leff.methods.noisy import Mechanism, SumMeans, noisy_means
from leff.methods.secure import SecureSums, secure_sums
from leff.models import blocks, layer_prefix
from leff.privacy.accountant import Release, epsilon
from leff.privacy.gaussian import gaussian_epsilon
from leff.privacy.ledger import Entry, Ledger
from leff.privacy.noise import Noise
from leff.round import Fleet, Summing, choose_clients
from leff.runs.options import RunConfig
from leff.seeds import numpy_rng
from leff.server import Server
from leff.wire.messages import Capacity, Update

QUANTILE_COST = 1.1  # how much more noise the updates get if the clip follows a quantile
QUANTILE_STEP = 0.2  # of the clip's logarithm, per unit of the quantile's error (Andrew et al.)
SPARE, MOST_SPARE = 8.0, 2**19  # room for noise in sums: deviations, and clips at most


class Privacy(ABC):
    """What a run releases of its clients: sums or updates with noise, and the count of them.

    `job_clip` and `job_noise` are what jobs ask clients to do themselves.  `open_start` says that
    the model comes from a run without privacy, which is not counted.
    """

    job_clip = job_noise = 0.0
    open_start = False

    def __init__(self, config: RunConfig, ledger: Ledger, noise: float) -> None:
        """`noise` is in units of the clip."""
        self.settings, self.noise = config.privacy, noise
        self._rate, self._ledger, self._seed = config.clients.per_round, ledger, config.seed

    @abstractmethod
    def choose(self, clients: Sequence[int], index: int) -> list[int]:
        """Return who takes part in round `index` (from 0)."""

    @abstractmethod
    def merge(
        self, method: Method, model: nn.Module, context: RoundContext, server: Server, fleet: Fleet
    ) -> dict[str, Any]:
        """Merge a round's updates, in place, after the ledger has counted the round.

        Return fields for the record.
        """

    def capped(self, reports: Sequence[Capacity]) -> list[Capacity]:
        """Return the reports with as many layers as may be trained."""
        return list(reports)

    @abstractmethod
    def _spent(self, more: int = 0) -> float:
        """Return ε after the rounds done, and `more` of them."""

    @property
    def epsilon(self) -> float | None:
        """ε that was spent so far; None without noise."""
        return self._spent() if self.noise else None

    def allows(self, index: int) -> bool:
        """Return whether round `index` (from 0) keeps the budget; without `privacy.stop` always.

        A round that the ledger has already, from before a kill, costs nothing more.
        """
        return self._ledger.has(index + 1) or self._keeps_one_more()

    def _keeps_one_more(self) -> bool:
        most = self.settings.epsilon
        return not (most and self.settings.stop) or self._spent(more=1) <= most

    def _count(self, entry: Entry) -> None:
        """Add an entry to the ledger; BudgetError if a repeated round would pass the budget."""
        again = self._ledger.has(entry.round) and entry not in self._ledger.entries
        if again and not self._keeps_one_more():
            raise BudgetError(
                f"round {entry.round} was done before with other updates, and to release it again "
                f"would pass privacy.epsilon = {self.settings.epsilon:g}"
            )
        self._ledger.add(entry)

    def said(self) -> dict[str, Any]:
        """Return the fields of every record: what was spent so far, and if it can be undone."""
        known = self.settings.reproducible and bool(self.noise)
        return {"epsilon": self.epsilon, "reproducible": known or None}

    def summary(self) -> dict[str, Any]:
        """Return what the whole run has spent, for its result."""
        return {
            "where": self.settings.where,
            "neighbours": "replaced" if self.settings.replaced else "added or removed",
            "epsilon": self.epsilon,
            "delta": self.settings.delta,
            "noise": self.noise,
            "rate": self._rate,
            "clip": self.settings.clip,
            "reproducible": self.settings.reproducible,
            "secure_sums": self.settings.secure_sums,
            "open_start": self.open_start,
        }


class ServerNoise(Privacy):
    """Noise in the sum of a round, which a server adds that clients trust."""

    def __init__(
        self, config: RunConfig, ledger: Ledger, noise: float, random: Callable[[], Noise]
    ) -> None:
        """`random` is asked once the run has begun, since it may make its key then."""
        super().__init__(config, ledger, noise)
        self._clients, self._random = self._rate * config.clients.count, random

    def choose(self, clients: Sequence[int], index: int) -> list[int]:
        """Return who takes part: each client by its own draw, perhaps nobody."""
        random = self._random()
        return [each for each in clients if random.takes_part(each, index, self._rate)]

    def merge(
        self, method: Method, model: nn.Module, context: RoundContext, server: Server, fleet: Fleet
    ) -> dict[str, Any]:
        assert not isinstance(method, SingleUpdateMethod), "check_method refuses it"
        updates, number = server.spool.files(), context.index + 1
        inputs = _digest(updates)
        clip = self._ledger.clip(number, self.settings.clip)

        def draw(count: int, label: str) -> Any:
            return self._random().normal(count, "sum", number, inputs, label)

        norms = [update.norm or 0.0 for update, _ in updates]
        follows = bool(self.settings.quantile)
        after = self._next_clip(clip, norms, draw(1, "norms")[0]) if follows else clip
        self._count(Entry(number, inputs, self.noise, self._rate, clip, after))
        noise = self.noise * (QUANTILE_COST if follows else 1.0)
        mechanism = Mechanism(clip, noise, self._clients)
        opened = method.opened(model, context)
        method.merge(model, noisy_means(opened, updates, mechanism, draw))
        return {}

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

    def _spent(self, more: int = 0) -> float:
        spent = [*self._ledger.before, *releases(self._ledger)]
        return epsilon([*spent, *[Release(self.noise, self._rate)] * more], self.settings.delta)


class Replaced(Privacy):
    """Noise against those who know who took part: neighbours differ in all that one client has.

    What a client adds may then change by twice the clip.  ε is that of the client that was asked
    most often.
    """

    def choose(self, clients: Sequence[int], index: int) -> list[int]:
        """Return a share of the clients, as without privacy."""
        return choose_clients(clients, self._rate, numpy_rng(self._seed, "clients", index))

    def _note(self, context: RoundContext, server: Server, inputs: str) -> None:
        """Count a round, with all that were asked in it."""
        asked, clip = tuple(sorted(server.spool.asked)), self.settings.clip
        number = context.index + 1
        self._count(Entry(number, inputs, self.noise, self._rate, clip, clip, asked))

    def _spent(self, more: int = 0) -> float:
        counts = Counter(client for entry in self._ledger.entries for client in entry.clients)
        most = max(counts.values(), default=0) + more
        before = [release.noise for release in self._ledger.before]
        return gaussian_epsilon([*before, *[self.noise / 2] * most], self.settings.delta)


class DeviceNoise(Replaced):
    """Noise in every update, which clients add that do not trust the server."""

    def __init__(self, config: RunConfig, ledger: Ledger, noise: float) -> None:
        super().__init__(config, ledger, noise)
        self.job_clip, self.job_noise = config.privacy.clip, noise

    def merge(
        self, method: Method, model: nn.Module, context: RoundContext, server: Server, fleet: Fleet
    ) -> dict[str, Any]:
        self._note(context, server, _digest(server.spool.files()))
        merge_round(method, model, server.spool, Guard(weights="equal"))
        return {}


class Summed(Replaced):
    """Secure sums: the server sees no single update.  It adds the noise, if any, to each sum.

    A sum that is not opened is not released, and who took part says which these are.
    """

    def __init__(
        self, config: RunConfig, ledger: Ledger, noise: float, random: Callable[[], Noise]
    ) -> None:
        super().__init__(config, ledger, noise)
        self.job_clip, self._random = config.privacy.clip, random

    def capped(self, reports: Sequence[Capacity]) -> list[Capacity]:
        """Return the reports with as many layers as `privacy.least_cohort` clients can train.

        Of a layer that fewer train nothing would be merged.
        """
        least = self.settings.least_cohort
        if len(reports) < least:
            return list(reports)
        most = sorted((report.layers for report in reports), reverse=True)[least - 1]
        return [replace(report, layers=min(report.layers, most)) for report in reports]

    def _sums(
        self, opened: Opened, context: RoundContext, server: Server, fleet: Fleet
    ) -> SecureSums:
        """Return the secure sums of a round's updates."""
        trained = {
            update.client: server.expected(update.client) for update, _ in server.spool.files()
        }
        shapes = {name: tuple(value.shape) for name, value in opened.values.items()}
        own = self.settings
        assert isinstance(fleet, Summing), "check_privacy refuses other engines"
        return secure_sums(
            fleet.sum,
            context.index,
            trained,
            shapes,
            own.clip,
            own.least_cohort,
            own.threshold,
            min(MOST_SPARE, math.ceil(SPARE * self.noise)),
        )

    def merge(
        self, method: Method, model: nn.Module, context: RoundContext, server: Server, fleet: Fleet
    ) -> dict[str, Any]:
        assert not isinstance(method, SingleUpdateMethod), "check_method refuses it"
        opened = method.opened(model, context)
        sums = self._sums(opened, context, server, fleet)
        totals = self._noised(sums, context, server) if self.noise else sums.totals
        present = len(server.spool.files())
        method.merge(model, SumMeans(opened, totals, sums.clients, present))
        return {"secure": _facts(sums, model)}

    def _noised(
        self, sums: SecureSums, context: RoundContext, server: Server
    ) -> dict[str, torch.Tensor]:
        """Return the sums with noise, after the ledger has counted them.

        They come into the range of sums again.  Otherwise a client that sends values at its end
        would see by a jump whether the others' sum is above or below zero.
        """
        inputs, deviation = sums.digest(), self.noise * sums.bound
        random = self._random()  # its key is there before anything is counted
        self._note(context, server, inputs)
        noised: dict[str, torch.Tensor] = {}
        for name, total in sums.totals.items():
            label = "sum", context.index + 1, inputs, name
            drawn = torch.from_numpy(random.normal(total.numel(), *label))  # pyright: ignore[reportUnknownMemberType]
            moved = total + drawn.view(total.shape) * deviation
            noised[name] = torch.remainder(moved + sums.width / 2, sums.width) - sums.width / 2
        return noised


def _facts(sums: SecureSums, model: nn.Module) -> dict[str, Any]:
    """Return what a record has of secure sums: the clients of each layer's sum, and bytes."""
    by_layer: dict[str, int] = {}
    for layer in range(len(blocks(model))):
        prefix = layer_prefix(model, layer)
        own = [count for name, count in sums.clients.items() if name.startswith(prefix)]
        by_layer |= {str(layer): min(own)} if own else {}
    bytes_sent = {"download_bytes": sums.download_bytes, "upload_bytes": sums.upload_bytes}
    return {"clients": by_layer, **bytes_sent}


def releases(ledger: Ledger) -> list[Release]:
    """Return what the rounds in a ledger released."""
    return [Release(entry.noise, entry.rate) for entry in ledger.entries]


def _digest(updates: Sequence[tuple[Update, Path]]) -> str:
    """Return a digest of what clients sent."""
    sent = [f"{update.client} {update.norm} {file_digest(file)}" for update, file in updates]
    return hashlib.sha256("\n".join(sent).encode()).hexdigest()
