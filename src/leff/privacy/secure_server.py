"""The server's side of secure sums (`secure_sums`)."""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leff.errors import SecureSumError
from leff.privacy.masks import (
    KEY_BYTES,
    add_mask,
    combined,
    commitment,
    is_share,
    public_key,
    sealed_bytes,
)
from leff.privacy.secure_messages import (
    Boxes,
    Group,
    GroupSum,
    Keys,
    Masked,
    Message,
    Roster,
    Shares,
    Survivors,
    Unmasked,
    check_keys,
    check_terms,
    dropped,
    groups_of,
    numbers,
    opened,
    pair_seed,
    pair_sign,
)

M = TypeVar("M", bound=Message)
Right = Callable[[bytes], bool]
TRIES = 200  # sets of shares of a secret; a tenth of a second each with 64 clients


class SecureServer:
    """The server's side of one round.  It draws nothing, and holds one sum of values a group.

    At every phase `threshold` clients have to be left.  It is more than half of all, so that no two
    sets of survivors both get enough answers.  A group is opened if `least_cohort` of its cohort
    are left.

    Each method takes the messages of a phase one at a time, so an iterator over files will do.  An
    error that has a `client` is of that client's message: the method can be called again without.
    """

    def __init__(
        self,
        round_index: int,
        groups: Mapping[str, Group],
        threshold: int,
        least_cohort: int = 2,
        spare: int = 0,
    ) -> None:
        """A sum has room for the clip of each client, and for `spare` more of them."""
        self._invited = sorted({client for group in groups.values() for client in group.cohort})
        check_terms(self._invited, threshold, least_cohort, groups)
        self._groups, self._threshold, self._spare = groups, threshold, spare
        self._roster = Roster(round_index, threshold, least_cohort, (), {})
        self._commitments: dict[int, Mapping[str, bytes]] = {}  # of those who shared
        self._left = Survivors(())
        self._totals: dict[str, NDArray[np.uint32]] = {}

    def roster(self, keys: Iterable[Keys]) -> Roster:
        """Phase 0: take the clients' public keys, and return who takes part."""
        known: dict[int, Keys] = {}
        for message in _each_once(keys, self._invited, "are invited"):
            check_keys(message)
            known[message.client] = message
        self._check_enough(known, "sent keys")
        groups = {
            name: replace(group, cohort=tuple(i for i in group.cohort if i in known))
            for name, group in self._groups.items()
        }
        ordered = tuple(known[client] for client in sorted(known))
        room = len(ordered) + self._spare
        self._roster = replace(self._roster, keys=ordered, groups=groups, room=room)
        return self._roster

    def boxes(self, shares: Iterable[Shares]) -> dict[int, Boxes]:
        """Phase 1: take the clients' sealed shares, and return the boxes for each client."""
        roster, sent = self._roster, dict[int, Shares]()
        for message in _each_once(shares, roster.clients, "sent keys"):
            client, own = message.client, groups_of(message.client, roster.groups)
            if set(message.boxes) != set(roster.clients) - {client}:
                raise SecureSumError(
                    f"client {client} sent shares for the clients {numbers(message.boxes)}, and "
                    f"must for all others of {numbers(roster.clients)}",
                    client,
                )
            due = sealed_bytes(1 + len(own))
            for to, box in message.boxes.items():
                if len(box) != due:
                    raise SecureSumError(
                        f"client {client} sent a box of {len(box)} bytes for client {to}, and has "
                        f"to send {due}",
                        client,
                    )
            if set(message.commitments) != set(own):
                raise SecureSumError(
                    f"client {client} committed to self masks of "
                    f"{', '.join(message.commitments) or 'nothing'}, and trains {', '.join(own)}",
                    client,
                )
            sent[client] = message
        self._check_enough(sent, "sent shares")
        self._commitments = {client: message.commitments for client, message in sent.items()}
        return {
            to: Boxes({client: sent[client].boxes[to] for client in sorted(sent) if client != to})
            for to in sorted(sent)
        }

    def survivors(self, masked: Iterable[Masked]) -> Survivors:
        """Phase 2: add up the clients' masked values, and return whose they are."""
        groups, sent = self._roster.groups, set[int]()
        totals = {name: np.zeros(group.size, dtype="<u4") for name, group in groups.items()}
        for message in _each_once(masked, self._commitments, "sent shares"):
            own = groups_of(message.client, groups)
            due = {name: 4 * group.size for name, group in own.items()}
            sizes = {name: len(values) for name, values in message.values.items()}
            if sizes != due:
                raise SecureSumError(
                    f"client {message.client} sent {_listed(sizes)}, and the round has "
                    f"{_listed(due)} for it",
                    message.client,
                )
            for name, values in message.values.items():
                totals[name] += np.frombuffer(values, dtype="<u4")
            sent.add(message.client)
        self._check_enough(sent, "sent values")
        self._totals, self._left = totals, Survivors(tuple(sorted(sent)))
        return self._left

    def sums(self, unmasked: Iterable[Unmasked]) -> dict[str, GroupSum]:
        """Phase 3: take the masks off, and return the sums of the groups that are opened."""
        roster, left = self._roster, self._left.clients
        cohorts = opened(roster.groups, left, roster.least_cohort)
        gone = dropped(roster.groups, self._commitments, left, roster.least_cohort)
        answers: dict[int, Unmasked] = {}
        for message in _each_once(unmasked, left, "sent values"):
            self._check_answer(message, cohorts, gone)
            answers[message.client] = message
        self._check_enough(answers, "sent shares of masks")
        givers = sorted(answers)
        keys = {each.client: each for each in roster.keys}
        mask_keys = {owner: self._mask_key(keys[owner], givers, answers) for owner in gone}
        sums: dict[str, GroupSum] = {}
        for name, cohort in cohorts.items():
            total = self._totals[name].copy()
            for client in cohort:
                add_mask(total, self._self_mask(client, name, givers, answers), -1)
                for peer in set(gone).intersection(roster.groups[name].cohort):
                    seed = pair_seed(mask_keys[peer], keys[client], roster.round_index, name)
                    add_mask(total, seed, -pair_sign(client, peer))
            sums[name] = GroupSum(cohort, total.astype(np.uint32, copy=False))
        return sums

    def _check_enough(self, clients: Collection[int], what: str) -> None:
        if len(clients) < self._threshold:
            raise SecureSumError(
                f"only the clients {numbers(clients)} {what}, and the threshold is "
                f"{self._threshold}; start the round again, with more clients"
            )

    def _check_answer(
        self, message: Unmasked, cohorts: Mapping[str, tuple[int, ...]], gone: Sequence[int]
    ) -> None:
        """Raise SecureSumError unless an answer has a well-formed share of all that is needed."""
        index = self._roster.clients.index(message.client)
        given = {_of_mask_key(owner): share for owner, share in message.mask_keys.items()}
        for name, shares in message.self_masks.items():
            given |= {_of_self_mask(owner, name): share for owner, share in shares.items()}
        due = [_of_mask_key(owner) for owner in gone]
        due += [_of_self_mask(owner, name) for name, owners in cohorts.items() for owner in owners]
        for what in sorted(given.keys() ^ set(due)):
            given_or_not = "gave a share of" if what in given else "gave no share of"
            raise SecureSumError(
                f"client {message.client} {given_or_not} {what}, for the survivors "
                f"{numbers(self._left.clients)}",
                message.client,
            )
        for what, share in given.items():
            if not is_share(share, index):
                raise SecureSumError(
                    f"client {message.client} gave a malformed share of {what}", message.client
                )

    def _self_mask(
        self, owner: int, name: str, givers: list[int], answers: Mapping[int, Unmasked]
    ) -> bytes:
        due = self._commitments[owner][name]

        def right(seed: bytes) -> bool:
            return commitment(seed, self._roster.round_index, owner, name) == due

        shares = {client: each.self_masks[name][owner] for client, each in answers.items()}
        return _verified(_of_self_mask(owner, name), givers, shares, self._threshold, right)

    def _mask_key(self, owner: Keys, givers: list[int], answers: Mapping[int, Unmasked]) -> bytes:
        def right(key: bytes) -> bool:
            return len(key) == KEY_BYTES and public_key(key) == owner.masking

        shares = {client: each.mask_keys[owner.client] for client, each in answers.items()}
        return _verified(_of_mask_key(owner.client), givers, shares, self._threshold, right)


def _verified(
    what: str, givers: list[int], shares: Mapping[int, bytes], threshold: int, right: Right
) -> bytes:
    """Return the secret that some `threshold` of the shares give and that is right.

    The first givers are tried, then some at random; those that gave it come to the front.  A share
    that does not fit may be its giver's fault or its owner's, so nobody is blamed.  SecureSumError
    if none of `TRIES` sets gives it.
    """
    draw = random.Random(0)
    chosen = givers[:threshold]
    for _ in range(TRIES if len(givers) > threshold else 1):
        secret = combined([shares[client] for client in chosen])
        if right(secret):
            givers.sort(key=lambda client: client not in chosen)
            return secret
        chosen = draw.sample(givers, threshold)
    raise SecureSumError(
        f"the shares of {what} that the clients {numbers(sorted(givers))} gave do not verify: its "
        "owner or too many of them sent a wrong one; start the round again"
    )


def _of_mask_key(owner: int) -> str:
    return f"client {owner}'s mask key"


def _of_self_mask(owner: int, name: str) -> str:
    return f"client {owner}'s self mask of {name}"


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} bytes of {name}" for name, size in sorted(sizes.items())) or "nothing"


def _each_once(messages: Iterable[M], among: Collection[int], what: str) -> Iterator[M]:
    """Yield messages.  SecureSumError for one of a client that is not there, and for a second."""
    seen: set[int] = set()
    for message in messages:
        client, kind = message.client, type(message).__name__
        if client not in among:
            raise SecureSumError(
                f"client {client} sent {kind}, and those that {what} are {numbers(among)}", client
            )
        if client in seen:
            raise SecureSumError(f"client {client} sent {kind} twice; take one of them", client)
        seen.add(client)
        yield message
