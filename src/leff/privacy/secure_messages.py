"""What client and server tell each other for a secure sum, phase by phase, and its terms.

    phase 0   Keys    → server    Roster    → clients
    phase 1   Shares  → server    Boxes     → clients, a client its own
    phase 2   Masked  → server    Survivors → clients
    phase 3   Unmasked → server

Clients are numbers, and groups are names.  A group is what is opened as one: a layer's tensors, or
the head.  `secure_sums` tells the story.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from leff.errors import SecureSumError, shown
from leff.privacy.masks import agreed, check_public_key
from leff.wire.asks import Phase


class Message(Protocol):
    """What a client sends."""

    @property
    def client(self) -> int: ...


@dataclass(frozen=True)
class Group:
    """What is summed as one: who trains it, in the order of their numbers, and how many values.

    `tensors` are the names of what the values are of, in order, for those who make and use them.
    Each group costs its clients a secret that they share, so what the same clients train is best
    one group.
    """

    cohort: tuple[int, ...]
    size: int
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keys:
    """A client's public keys of a round: one for sealing shares, one for agreeing on masks."""

    client: int
    sealing: bytes
    masking: bytes


@dataclass(frozen=True)
class Roster:
    """Who takes part (U1), with which keys, and the terms of the sums."""

    round_index: int
    threshold: int  # clients that have to be left at every phase; their shares give a secret
    least_cohort: int  # clients of a group that have to be left for it to be opened
    keys: tuple[Keys, ...]  # in the order of the clients' numbers
    groups: Mapping[str, Group]  # their cohorts within U1
    room: int = 0  # clips that a sum has room for, one for each client at least

    @property
    def clients(self) -> tuple[int, ...]:
        return tuple(each.client for each in self.keys)


NOBODY = Roster(0, 0, 0, (), {})


@dataclass(frozen=True)
class Shares:
    """A client's secrets: a sealed box of shares for each other client, and the commitments.

    A box has a share of the mask key, and of the self mask of each group in the order of names.
    """

    client: int
    boxes: Mapping[int, bytes]
    commitments: Mapping[str, bytes]  # to the self masks, by group


@dataclass(frozen=True)
class Boxes:
    """The boxes for one client, by who sent them; these and itself are who shared (U2)."""

    boxes: Mapping[int, bytes]


@dataclass(frozen=True)
class Masked:
    """A client's values under masks, by group: uint32, little-endian."""

    client: int
    values: Mapping[str, bytes]


@dataclass(frozen=True)
class Survivors:
    """Who sent masked values (U3)."""

    clients: tuple[int, ...]


@dataclass(frozen=True)
class Unmasked:
    """A client's shares of what has to be taken off the sums, by whose secret they are of."""

    client: int
    self_masks: Mapping[str, Mapping[int, bytes]]  # of survivors, by opened group
    mask_keys: Mapping[int, bytes]  # of those who dropped after they shared


@dataclass(frozen=True)
class GroupSum:
    """The sum of a group's encoded values, and whose they are."""

    clients: tuple[int, ...]
    total: NDArray[np.uint32]


@dataclass(frozen=True)
class Invitation:
    """Phase 0 of a sum: the server asks for keys.  The `name` is drawn anew for each sum."""

    round_index: int
    name: str


SumAsk = Invitation | Roster | Boxes | Survivors
SumAnswer = Keys | Shares | Masked | Unmasked
ASKS: Mapping[Phase, type[SumAsk]] = {
    "advertise": Invitation,
    "share": Roster,
    "mask": Boxes,
    "unmask": Survivors,
}
ANSWERS: Mapping[Phase, type[SumAnswer]] = {
    "advertise": Keys,
    "share": Shares,
    "mask": Masked,
    "unmask": Unmasked,
}


def phase_of(ask: SumAsk) -> Phase:
    """Return the phase of an ask."""
    return next(phase for phase, kind in ASKS.items() if isinstance(ask, kind))


def joined(masked: Masked) -> bytes:
    """Return the values of all groups, one after another, in the order of names."""
    return b"".join(masked.values[name] for name in sorted(masked.values))


def parted(values: bytes, client: int, groups: Mapping[str, Group]) -> Masked:
    """Return a client's joined values, by its groups.  SecureSumError if they do not fit."""
    own = groups_of(client, groups)
    due = 4 * sum(group.size for group in own.values())
    if len(values) != due:
        raise SecureSumError(
            f"client {client} sent {len(values)} bytes of values, and the round has {due} for it",
            client,
        )
    found, place = dict[str, bytes](), 0
    for name, group in own.items():
        found[name] = values[place : place + 4 * group.size]
        place += 4 * group.size
    return Masked(client, found)


def bytes_of(message: object) -> int:
    """Return the bytes of keys, shares and values in a message."""
    if isinstance(message, bytes):
        return len(message)
    if isinstance(message, Mapping):
        return sum(map(bytes_of, cast("Mapping[Any, object]", message).values()))
    if isinstance(message, tuple):
        return sum(map(bytes_of, cast("tuple[object, ...]", message)))
    if is_dataclass(message):
        return sum(bytes_of(getattr(message, each.name)) for each in fields(message))
    return 0


def check_terms(
    clients: Collection[int], threshold: int, least_cohort: int, groups: Mapping[str, Group]
) -> None:
    """Raise SecureSumError for terms under which a sum would not be safe, or could not be."""
    count = len(clients)
    if not count / 2 < threshold <= count:
        raise SecureSumError(
            f"threshold must be more than half of the {count} clients and at most all of them, "
            f"{count // 2 + 1} to {count}, got {threshold}"
        )
    if least_cohort < 2:
        raise SecureSumError(
            f"least_cohort must be at least 2, since the sum of one client is its update, got "
            f"{least_cohort}"
        )
    for name, group in groups.items():
        if not name:
            raise SecureSumError("a group must have a name, got ''")
        strangers = set(group.cohort) - set(clients)
        if strangers or list(group.cohort) != sorted(set(group.cohort)):
            raise SecureSumError(
                f"the cohort of {name} must be clients of the round, each once and in order, got "
                f"{shown(group.cohort)}"
            )
        if group.size < 1:
            raise SecureSumError(f"{name} must have at least 1 value, got {group.size}")


def opened(
    groups: Mapping[str, Group], survivors: Collection[int], least_cohort: int
) -> dict[str, tuple[int, ...]]:
    """Return the groups that are opened, with those of their cohorts that are left."""
    left = {name: tuple(i for i in each.cohort if i in survivors) for name, each in groups.items()}
    return {name: clients for name, clients in left.items() if len(clients) >= least_cohort}


def dropped(
    groups: Mapping[str, Group], shared: Collection[int], survivors: Collection[int], least: int
) -> list[int]:
    """Return the clients that dropped after they shared, and whose masks are in an opened group."""
    gone = set(shared) - set(survivors)
    cohorts = (groups[name].cohort for name in opened(groups, survivors, least))
    return sorted(gone & {client for cohort in cohorts for client in cohort})


def numbers(clients: Collection[int]) -> str:
    """Return clients as a message shows them."""
    return ", ".join(map(str, sorted(clients))) or "none"


def groups_of(client: int, groups: Mapping[str, Group]) -> dict[str, Group]:
    """Return a client's groups, in the order of their names."""
    return {name: groups[name] for name in sorted(groups) if client in groups[name].cohort}


def pair_seed(mask_key: bytes, other: Keys, round_index: int, name: str) -> bytes:
    """Return the seed s_ij of the mask that two clients share for a group."""
    return agreed(mask_key, other.masking, "pair", round_index, name)


def pair_sign(client: int, peer: int) -> int:
    """Return the sign with which a client adds that mask; its peer has the other."""
    return 1 if client < peer else -1


def check_keys(keys: Keys) -> None:
    """Raise SecureSumError for a malformed public key."""
    for key in (keys.sealing, keys.masking):
        check_public_key(key, keys.client)
