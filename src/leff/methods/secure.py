"""The server's part in the secure sum of a round: groups, phases, and the sums by tensor.

    sums = secure_sums(asking, 7, trained, shapes, clip=1.0, least_cohort=3, threshold=0.67)
    sums.totals["transformer.h.3.ln_1.weight"]       # float64; not there if too few trained it

`asking` sends one phase's messages to clients and yields their answers (`round.Summing`).  Tensors
that the same clients train are one group.  A tensor that fewer than `least_cohort` clients train is
in no group, so nobody sends it.
"""

import hashlib
import logging
import math
import secrets
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from leff.errors import SecureSumError
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.secure_messages import (
    Group,
    GroupSum,
    Invitation,
    Keys,
    Masked,
    Message,
    Shares,
    SumAnswer,
    SumAsk,
    Unmasked,
    bytes_of,
)
from leff.privacy.secure_sums import SecureServer

log = logging.getLogger("leff.server")
Asking = Callable[[Mapping[int, SumAsk]], Generator[SumAnswer]]
Shapes = Mapping[str, tuple[int, ...]]
A = TypeVar("A")
T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class SecureSums:
    """Sums of what training changed, by tensor, and how many clients each is of.

    `bound` is the largest L2 norm of what one client added to all of them, and `width` that of the
    range in which they are.  The bytes are those of keys, shares and masked values, over all
    clients.
    """

    totals: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    clients: Mapping[str, int] = field(default_factory=dict[str, int])
    bound: float = 0.0
    width: float = math.inf
    download_bytes: int = 0
    upload_bytes: int = 0

    def digest(self) -> str:
        """Return a digest of the sums, and of how many clients each is of."""
        sha = hashlib.sha256()
        for name in sorted(self.totals):
            sha.update(f"{name} {self.clients[name]}\n".encode())
            sha.update(self.totals[name].contiguous().numpy().tobytes())
        return sha.hexdigest()


def secure_sums(
    asking: Asking,
    round_index: int,
    trained: Mapping[int, Iterable[str]],
    shapes: Shapes,
    clip: float,
    least_cohort: int,
    threshold: float,
    spare: int = 0,
) -> SecureSums:
    """Return the sums over clients of the tensors that each has `trained`.

    A value has room for the clip of each client, and for `spare` more of them, for noise.
    `threshold` is the share of them that has to be left at every phase.  If fewer are, there are
    no sums, and a warning.
    """
    tensors = groups_of(trained, least_cohort)
    if not tensors:
        log.warning("no layer was trained by %d clients, so nothing is summed", least_cohort)
        return SecureSums()
    groups = {
        name: Group(
            _cohort(trained, names[0]), sum(math.prod(shapes[each]) for each in names), names
        )
        for name, names in tensors.items()
    }
    clients = sorted({client for group in groups.values() for client in group.cohort})
    counted = _Counted(asking)
    try:
        least = max(len(clients) // 2 + 1, math.ceil(threshold * len(clients) - 1e-9))
        server = SecureServer(round_index, groups, least, least_cohort, spare)
        invitation = Invitation(round_index, secrets.token_hex(8))
        keys = _only(Keys, counted.ask(dict.fromkeys(clients, invitation)))
        roster = _of_good(server.roster, keys)
        shares = _only(Shares, counted.ask(dict.fromkeys(roster.clients, roster)))
        boxes = _of_good(server.boxes, shares)
        survivors = server.survivors(_only(Masked, counted.ask(boxes)))
        last = counted.ask(dict.fromkeys(survivors.clients, survivors))
        found = _of_good(server.sums, _only(Unmasked, last))
    except SecureSumError as error:
        log.warning("the round has no secure sum: %s", error)
        return SecureSums(download_bytes=counted.down, upload_bytes=counted.up)
    fixed = FixedPoint(clip, roster.room)
    totals, counts = _by_tensor(found, groups, shapes, fixed)
    bound = fixed.bound(sum(groups[name].size for name in found))
    return SecureSums(totals, counts, bound, fixed.width, counted.down, counted.up)


class _Counted:
    """Asks clients, and counts the bytes."""

    def __init__(self, asking: Asking) -> None:
        self._asking, self.down, self.up = asking, 0, 0

    def ask(self, asks: Mapping[int, SumAsk]) -> Generator[SumAnswer]:
        self.down += sum(map(bytes_of, asks.values()))
        for answer in self._asking(asks):
            self.up += bytes_of(answer)
            yield answer


def groups_of(
    trained: Mapping[int, Iterable[str]], least_cohort: int
) -> dict[str, tuple[str, ...]]:
    """Return the tensors of each group: those with the same cohort, if it is large enough."""
    cohorts: dict[str, list[int]] = {}
    for client in sorted(trained):
        for name in trained[client]:
            cohorts.setdefault(name, []).append(client)
    found: dict[tuple[int, ...], list[str]] = {}
    for name in sorted(cohorts):
        if len(cohorts[name]) >= least_cohort:
            found.setdefault(tuple(cohorts[name]), []).append(name)
    return {str(place): tuple(names) for place, names in enumerate(found.values())}


def _cohort(trained: Mapping[int, Iterable[str]], name: str) -> tuple[int, ...]:
    return tuple(client for client in sorted(trained) if name in set(trained[client]))


def _only(kind: type[A], answers: Iterable[Any]) -> Iterable[A]:
    """Yield the answers of a kind; one that is of another phase is left out."""
    return (answer for answer in answers if isinstance(answer, kind))


def _of_good(do: Callable[[Sequence[M]], T], messages: Iterable[M]) -> T:
    """Return what a phase makes of the messages, without those of clients that sent a wrong one."""
    left = list(messages)
    while True:
        try:
            return do(left)
        except SecureSumError as error:
            if error.client is None:
                raise
            log.warning("client %d leaves the secure sum: %s", error.client, error)
            left = [message for message in left if message.client != error.client]


def _by_tensor(
    found: Mapping[str, GroupSum],
    groups: Mapping[str, Group],
    shapes: Shapes,
    fixed: FixedPoint,
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    totals: dict[str, torch.Tensor] = {}
    clients: dict[str, int] = {}
    for group, own in found.items():
        values, place = torch.from_numpy(fixed.decode(own.total)), 0  # pyright: ignore[reportUnknownMemberType]
        for name in groups[group].tensors:
            size = math.prod(shapes[name])
            totals[name] = values[place : place + size].view(shapes[name])
            clients[name] = len(own.clients)
            place += size
    return totals, clients
