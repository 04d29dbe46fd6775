"""A client's side of a secure sum (`secure_sums`)."""

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from leff.errors import SecureSumError
from leff.privacy.masks import (
    KEY_BYTES,
    SHARE_BYTES,
    add_mask,
    agreed,
    commitment,
    is_share,
    public_key,
    seal,
    split,
    unseal,
)
from leff.privacy.secure_messages import (
    ASKS,
    NOBODY,
    Boxes,
    Group,
    Keys,
    Masked,
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

MASK_KEY = ""  # among a client's secrets, beside the self masks of its groups


@dataclass(frozen=True)
class ClientState:
    """What a client knows of a round's sum between two phases: secrets, so for itself alone."""

    client: int
    round_index: int
    least_cohort: int
    sealing_key: bytes
    mask_key: bytes
    next: str = "share"  # the phase that it has to do next
    roster: Roster = NOBODY
    seeds: Mapping[str, bytes] = field(default_factory=dict[str, bytes])  # self masks, by group
    held: Mapping[int, Mapping[str, bytes]] = field(  # shares, by whose secrets they are of
        default_factory=dict[int, Mapping[str, bytes]]
    )
    answered: Survivors | None = None


class SecureClient:
    """A client's side of one round: each phase once, in order.

    `least_cohort` is its own bound: it takes part in no round that opens smaller groups.
    `random_bytes` gives its keys and self masks.  (Shamir's coefficients are not from there.)
    A client can end between two phases, and go on as `SecureClient.of(state)`.
    """

    def __init__(
        self,
        client: int,
        round_index: int,
        least_cohort: int = 2,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._random_bytes = random_bytes
        keys = random_bytes(KEY_BYTES), random_bytes(KEY_BYTES)
        self.state = ClientState(client, round_index, least_cohort, *keys)

    @classmethod
    def of(cls, state: ClientState) -> "SecureClient":
        """Return a client that goes on where another one with this state ended."""
        made = cls(state.client, state.round_index)
        made.state = state
        return made

    @property
    def client(self) -> int:
        """Its number."""
        return self.state.client

    def advertise(self) -> Keys:
        """Phase 0: return the public keys."""
        own = self.state
        return Keys(own.client, public_key(own.sealing_key), public_key(own.mask_key))

    def share(self, roster: Roster) -> Shares:
        """Phase 1: share the mask key, and a fresh self mask for each own group, with all."""
        self._expect("share")
        self._check_roster(roster)
        seeds = {n: self._random_bytes(KEY_BYTES) for n in groups_of(self.client, roster.groups)}
        own = {MASK_KEY: self.state.mask_key, **seeds}
        split_up = {
            n: split(secret, roster.threshold, len(roster.keys)) for n, secret in own.items()
        }
        held = {
            client: {name: shares[index] for name, shares in split_up.items()}
            for index, client in enumerate(roster.clients)
        }
        boxes = {
            other.client: seal(
                self._box_key(other, self.client, other.client),
                b"".join(held[other.client].values()),
            )
            for other in roster.keys
            if other.client != self.client
        }
        about = roster.round_index, self.client
        commitments = {n: commitment(secret, *about, n) for n, secret in seeds.items()}
        kept = {self.client: held[self.client]}
        self.state = replace(self.state, next="mask", roster=roster, seeds=seeds, held=kept)
        return Shares(self.client, boxes, commitments)

    def mask(self, boxes: Boxes, encoded: Mapping[str, NDArray[np.uint32]]) -> Masked:
        """Phase 2: return the values of each own group under masks.

        `encoded` has each group's as `FixedPoint.encode` gives them, in one dimension.
        """
        self._expect("mask")
        roster, shared = self.state.roster, {self.client, *boxes.boxes}
        _check_left(shared, roster.clients, roster.threshold, "shared their secrets")
        own = groups_of(self.client, roster.groups)
        self._check_values(encoded, own)
        keys = {each.client: each for each in roster.keys}
        held = {sender: self._open(keys[sender], box) for sender, box in boxes.boxes.items()}
        sent: dict[str, bytes] = {}
        for name, group in own.items():
            values = encoded[name].astype("<u4")
            add_mask(values, self.state.seeds[name], 1)  # b_i
            for peer in shared.intersection(group.cohort) - {self.client}:  # s_ij
                seed = pair_seed(self.state.mask_key, keys[peer], roster.round_index, name)
                add_mask(values, seed, pair_sign(self.client, peer))
            sent[name] = values.tobytes()
        # never again `mask`: two values under one mask tell their difference
        self.state = replace(self.state, next="unmask", held={**self.state.held, **held})
        return Masked(self.client, sent)

    def unmask(self, survivors: Survivors) -> Unmasked:
        """Phase 3: return shares of the self masks of opened groups, and of dropped clients' keys.

        Of one client it gives the first or the second: it answers for one set of survivors only,
        to whom the same is said as often as they ask.
        """
        self._expect("unmask")
        own = self.state
        roster, left, shared = own.roster, survivors.clients, own.held
        _check_left(left, shared, roster.threshold, "sent values")
        if self.client not in left:
            raise SecureSumError(
                f"client {self.client} is not among the survivors {numbers(left)}; ask these only"
            )
        if own.answered is not None and own.answered != survivors:
            raise SecureSumError(
                f"client {self.client} has answered for the survivors "
                f"{numbers(own.answered.clients)}, and is asked for {numbers(left)}; two "
                "answers would uncover who is in one of them only"
            )
        self.state = replace(own, answered=survivors)
        gone = dropped(roster.groups, shared, left, roster.least_cohort)
        self_masks = {
            name: {owner: shared[owner][name] for owner in cohort}
            for name, cohort in opened(roster.groups, left, roster.least_cohort).items()
        }
        return Unmasked(self.client, self_masks, {owner: shared[owner][MASK_KEY] for owner in gone})

    def _expect(self, phase: str) -> None:
        own = self.state
        if phase != own.next:
            raise SecureSumError(
                f"client {self.client} was asked to {phase} in round {own.round_index}, and has to "
                f"{own.next} next; a client does each once, in the order {', '.join(ASKS)}"
            )

    def _check_roster(self, roster: Roster) -> None:
        clients, own = roster.clients, self.state
        if roster.round_index != own.round_index:
            raise SecureSumError(
                f"client {self.client} has keys for round {own.round_index}, and the roster is of "
                f"round {roster.round_index}; make a new client for each round"
            )
        if list(clients) != sorted(set(clients)) or self.advertise() not in roster.keys:
            raise SecureSumError(
                f"the roster must have each client once, in order, and client {self.client} with "
                f"the keys that it sent; got the clients {numbers(clients)}"
            )
        check_terms(clients, roster.threshold, roster.least_cohort, roster.groups)
        if roster.least_cohort < own.least_cohort:
            raise SecureSumError(
                f"client {self.client} lets no group of fewer than {own.least_cohort} clients be "
                f"opened, and the round has least_cohort {roster.least_cohort}; raise that"
            )
        if roster.room < len(clients):
            raise SecureSumError(
                f"the round has room for {roster.room} clips, and {len(clients)} clients"
            )
        for keys in roster.keys:
            check_keys(keys)

    def _check_values(
        self, encoded: Mapping[str, NDArray[np.uint32]], own: Mapping[str, Group]
    ) -> None:
        if set(encoded) != set(own):
            raise SecureSumError(
                f"client {self.client} trains {', '.join(own) or 'no group'}, and got values of "
                f"{', '.join(sorted(encoded)) or 'none'}"
            )
        for name, values in encoded.items():
            if values.dtype != np.uint32 or values.shape != (own[name].size,):
                raise SecureSumError(
                    f"{name} must be {own[name].size} encoded values (uint32) in one dimension, "
                    f"got {values.dtype} of shape {values.shape}"
                )

    def _box_key(self, other: Keys, sender: int, receiver: int) -> bytes:
        return agreed(
            self.state.sealing_key,
            other.sealing,
            "box",
            self.state.round_index,
            sender,
            receiver,
        )

    def _open(self, sender: Keys, box: bytes) -> dict[str, bytes]:
        """Return the shares in a box, by the secret that they are of."""
        plain = unseal(self._box_key(sender, sender.client, self.client), box, sender.client)
        names = [MASK_KEY, *groups_of(sender.client, self.state.roster.groups)]
        shares = [plain[i : i + SHARE_BYTES] for i in range(0, len(plain), SHARE_BYTES)]
        index = self.state.roster.clients.index(self.client)
        if len(shares) != len(names) or not all(is_share(share, index) for share in shares):
            raise SecureSumError(
                f"client {sender.client} sent client {self.client} malformed shares; start the "
                "round again without it",
                sender.client,
            )
        return dict(zip(names, shares, strict=True))


def _check_left(left: Collection[int], before: Collection[int], threshold: int, what: str) -> None:
    """Raise SecureSumError unless those that are left were there before, and are enough."""
    if len(left) < threshold:
        raise SecureSumError(
            f"only the clients {numbers(left)} {what}, and the threshold is {threshold}; start the "
            "round again, with more clients"
        )
    if not set(left) <= set(before) or len(set(left)) != len(left):
        raise SecureSumError(
            f"the clients {numbers(left)} cannot be those that {what}: each must be one of "
            f"{numbers(before)}, named once"
        )
