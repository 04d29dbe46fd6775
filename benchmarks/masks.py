"""Secure sums at GPT-2's size: seconds and bytes of a client and of the server, beside plain sums.

    .venv/bin/python -m benchmarks.masks                        # about five minutes on two cores
    .venv/bin/python -m benchmarks.masks --sides leff --dropped 1 --json

`fedavg`: every client trains all of GPT-2, so there are two groups, the layers and the rest, of all
clients.  In `fedavg-layers`, which takes longer, each layer is a group of its own.  `leff`: every
client trains one layer, and four clients share a layer.  Values are random.
`plain` is the same sum of the same fixed-point numbers, without masks, in the same repeat: the
client rounds, the server adds up.  `client` is one client's whole round; each does the same work,
so every repeat measures another one.  `server` is the server's whole round.  Seconds are the
processor's, of all threads.  Bytes are those of the messages' contents.  The sums are checked.

`--dropped N` has N clients drop after they shared: the server takes their masks off the others.
"""

import argparse
import json
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from leff.privacy import secure_client
from leff.privacy.fixed_point import FixedPoint
from leff.privacy.masks import KEY_BYTES, add_mask
from leff.privacy.secure_messages import groups_of, pair_seed, pair_sign
from leff.privacy.secure_sums import Group, GroupSum, Masked, SecureClient, SecureServer

LAYER, LAYERS, ALL = 7_087_872, 12, 124_439_808  # values of GPT-2
SHARING = 4  # clients that train the same layer
SIDES = ("fedavg", "leff", "fedavg-layers")
ROUND = 1
SHAMIR = "flwr.common.secure_aggregation.crypto.shamir"
T = TypeVar("T")
Words = NDArray[np.uint32]


def groups_for(side: str, clients: int, layer: int = LAYER, every: int = ALL) -> dict[str, Group]:
    """Return who trains what."""
    all_of_them = tuple(range(clients))
    head = {"head": Group(all_of_them, every - LAYERS * layer)}
    if side == "fedavg":
        return {"layers": Group(all_of_them, LAYERS * layer), **head}
    if side == "fedavg-layers":
        return {f"layer {index}": Group(all_of_them, layer) for index in range(LAYERS)} | head
    return {
        f"layer {first // SHARING}": Group(tuple(range(first, first + SHARING)), layer)
        for first in range(0, clients, SHARING)
    }


def timed(work: Callable[..., T], *given: Any) -> tuple[T, float]:
    """Return what `work` returns, and its processor's seconds without those of iterators given."""
    spent = 0.0

    def untimed(messages: Iterator[Any]) -> Iterator[Any]:
        nonlocal spent
        while True:
            started = time.process_time()
            message = next(messages, None)
            spent += time.process_time() - started
            if message is None:
                return
            yield message

    own = [untimed(each) if isinstance(each, Iterator) else each for each in given]
    started = time.process_time()
    found = work(*own)
    return found, time.process_time() - started - spent


def size_of(message: Any) -> int:
    """Return the bytes of a message's contents; a number has 8."""
    if is_dataclass(message):
        return sum(size_of(getattr(message, field.name)) for field in fields(message))
    if isinstance(message, Mapping):
        return sum(size_of(key) + size_of(value) for key, value in message.items())
    if isinstance(message, tuple):
        return sum(map(size_of, message))
    return len(message) if isinstance(message, str | bytes) else 8


@dataclass
class Side:
    """A client that is measured, with the secrets that it draws."""

    client: SecureClient
    drawn: list[bytes]
    seconds: float = 0.0
    upload: int = 0
    download: int = 0

    @classmethod
    def new(cls, number: int) -> "Side":
        drawn: list[bytes] = []

        def draw(size: int) -> bytes:
            drawn.append(secrets.token_bytes(size))
            return drawn[-1]

        client, seconds = timed(lambda: SecureClient(number, ROUND, random_bytes=draw))
        assert [len(key) for key in drawn] == [KEY_BYTES] * 2
        return cls(client, drawn, seconds)

    def do(self, work: Callable[..., T], *given: Any) -> T:
        """Have the client do a phase, and count its seconds and bytes."""
        found, seconds = timed(work, *given)
        self.seconds += seconds
        self.upload += size_of(found)
        self.download += sum(size_of(each) for each in given if not isinstance(each, dict))
        return found


class Play:
    """A round in which some clients are measured, and the server."""

    def __init__(self, groups: dict[str, Group], clients: int, dropped: int, measured: int) -> None:
        self.groups, self.fixed = groups, FixedPoint(1.0, clients)
        rng = np.random.default_rng(0)
        self.floats = rng.random(max(each.size for each in groups.values()), dtype=np.float32)
        self.words = self.fixed.encode(self.floats)  # every group of every client begins with it
        self.left = range(clients - dropped)
        self.gone = range(clients - dropped, clients)
        self.sides = [Side.new(number) for number in range(clients)]
        self.server = SecureServer(ROUND, groups, clients // 2 + 1)
        keys = iter([side.do(side.client.advertise) for side in self.sides])
        self.roster, seconds = timed(self.server.roster, keys)
        shares = iter([side.do(side.client.share, self.roster) for side in self.sides])
        self.boxes, more = timed(self.server.boxes, shares)
        self.setup_seconds = seconds + more  # of the server
        self.masks = {name: self.all_masks(name) for name in groups}
        # these only open their boxes; what they send is made by `all_masked`
        with patch.object(secure_client, "add_mask", lambda values, seed, sign: None):
            for number in self.left[measured : measured + clients // 2]:
                own = groups_of(number, groups)
                sent = {name: self.words[: group.size] for name, group in own.items()}
                self.sides[number].client.mask(self.boxes[number], sent)
        self.others = [side.client for side in self.sides[measured : measured + clients // 2]]

    def repeat(self, number: int) -> dict[str, dict[str, float]]:
        """Measure client `number` and the server, with masks and plain."""
        side, own = self.sides[number], groups_of(number, self.groups)
        sent, encoding = timed(self.encode, own)
        masked = side.do(side.client.mask, self.boxes[number], sent)
        _, copying = timed(lambda: [words.tobytes() for words in sent.values()])
        sent.clear()
        survivors, adding = timed(self.server.survivors, self.all_masked(masked))
        answers = [side.do(side.client.unmask, survivors)]
        answers += [client.unmask(survivors) for client in self.others]
        sums, opening = timed(self.server.sums, iter(answers))
        assert sums.keys() == self.groups.keys() and all(map(self.is_right, sums.values()))
        sums.clear()
        _, plain_adding = timed(self.add_up)
        masked_server = self.setup_seconds + adding + opening
        return {
            "client": {"masked": encoding + side.seconds, "plain": encoding + copying},
            "server": {"masked": masked_server, "plain": plain_adding},
        }

    def is_right(self, found: GroupSum) -> bool:
        words = self.words[: len(found.total)]
        return np.array_equal(found.total, words * np.uint32(len(found.clients)))

    def encode(self, own: Mapping[str, Group]) -> dict[str, Words]:
        return {n: self.fixed.encode(self.floats[: group.size]) for n, group in own.items()}

    def add_up(self) -> dict[str, Words]:
        """Add up all clients' values without masks."""
        totals = {name: np.zeros(group.size, np.uint32) for name, group in self.groups.items()}
        for client in self.left:
            for name, group in groups_of(client, self.groups).items():
                totals[name] += self.words[: group.size]
        return totals

    def all_masked(self, real: Masked) -> Iterator[Masked]:
        """Yield what all send.  The sums are right, and nobody but `real` had to mask for them.

        In each group one peer of `real` sends all masks that `real` did not, and the others none.
        """
        yield real
        missing = dict(self.masks)
        for name, values in real.values.items():
            words = np.frombuffer(values, np.uint32)
            missing[name] = missing[name] + self.words[: len(words)] - words
        for client in self.left:
            if client != real.client:
                own = groups_of(client, self.groups)
                sent = {name: self.words[: group.size] for name, group in own.items()}
                for name in missing.keys() & own.keys():
                    sent[name] = sent[name] + missing.pop(name)
                yield Masked(client, {name: each.data.cast("B") for name, each in sent.items()})

    def all_masks(self, name: str) -> Words:
        """Return the sum of the masks that the server has to take off a group."""
        group = self.groups[name]
        total = np.zeros(group.size, np.uint32)
        for client in set(self.left).intersection(group.cohort):
            _, mask_key, *seeds = self.sides[client].drawn
            add_mask(total, seeds[list(groups_of(client, self.groups)).index(name)], 1)
            for peer in set(self.gone).intersection(group.cohort):
                seed = pair_seed(mask_key, self.roster.keys[peer], ROUND, name)
                add_mask(total, seed, pair_sign(client, peer))
        return total


def measure(
    side: str, clients: int, dropped: int, repeats: int, layer: int = LAYER, every: int = ALL
) -> dict[str, Any]:
    """Return a row; the seconds are means over the repeats, and the ratios have their spread."""
    groups = groups_for(side, clients, layer, every)
    play = Play(groups, clients, dropped, measured=repeats)
    found = [play.repeat(number) for number in range(repeats)]
    values = sum(group.size for group in groups_of(0, groups).values())
    row: dict[str, Any] = {
        "side": side,
        "clients": clients,
        "dropped": dropped,
        "groups": len(groups),
        "values": values,
        "plain_upload_bytes": 4 * values,
        "upload_bytes": play.sides[0].upload,
        "download_bytes": play.sides[0].download,
        "repeats": repeats,
    }
    for who in ("client", "server"):
        for how in ("plain", "masked"):
            row[f"{who}_{how}_seconds"] = statistics.mean(each[who][how] for each in found)
        ratios = [each[who]["masked"] / each[who]["plain"] for each in found]
        row[f"{who}_ratio"] = {
            "mean": statistics.mean(ratios), "min": min(ratios), "max": max(ratios),
        }  # fmt: skip
    return row


def _line(row: Mapping[str, Any]) -> str:
    words = f"{row['side']:<7}{row['clients']:>3} clients, {row['dropped']} dropped: "
    for who in ("client", "server"):
        ratio = row[f"{who}_ratio"]
        words += (
            f"{who} {row[f'{who}_masked_seconds']:.2f} s, plain {row[f'{who}_plain_seconds']:.2f} s"
            f" (x{ratio['mean']:.1f}, {ratio['min']:.1f} to {ratio['max']:.1f}); "
        )
    more = row["upload_bytes"] - row["plain_upload_bytes"]
    return words + (
        f"up {row['plain_upload_bytes'] / 1e6:.1f} MB and {more / 1e3:.1f} kB more, "
        f"down {row['download_bytes'] / 1e3:.1f} kB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES[:2])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 40], help="multiples of 4")
    parser.add_argument("--dropped", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    import_module(SHAMIR)  # takes a second, which is no client's
    rows: list[dict[str, Any]] = []
    for side in arguments.sides:
        for clients in arguments.clients:
            rows.append(measure(side, clients, arguments.dropped, arguments.repeats))
            if not arguments.json:
                print(_line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
