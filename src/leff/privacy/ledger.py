"""Every noisy sum of a run, on disk, since what was released once stays released.

    ledger = Ledger(folder / "privacy.json", before)
    ledger.add(Entry(round=1, inputs="9f2c…", noise=1.1, rate=0.1, clip=1.0, next_clip=1.0))

An entry is on disk before its sum is used.  A round that is done again, since the run was killed or
its checkpoints were lost, has the same noise if the clients sent the same, and then shows nothing
new.  If they sent something else, it counts as one more release.

A run that continues another one's model starts with that run's releases.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from leff.errors import CheckpointError
from leff.files import read_json, write_json
from leff.privacy.accountant import Release


@dataclass(frozen=True)
class Entry:
    """A round's noisy sum, or noisy updates; `inputs` is a digest of what the clients sent."""

    round: int  # from 1
    inputs: str
    noise: float  # z of the accountant
    rate: float  # q
    clip: float  # C
    next_clip: float  # C of the next round
    clients: tuple[int, ...] = ()  # that were asked, if each adds the noise to its own update


class Ledger:
    """The releases of a run, and those `before` it."""

    def __init__(self, path: Path, before: Sequence[Release] = ()) -> None:
        """Read what is there already.  Raises CheckpointError if it is damaged."""
        self._path = path
        self.before, self.entries = list(before), list[Entry]()
        values = read_json(path, "the run cannot go on, as nobody knows what it has spent")
        if values is None:
            return
        try:
            self.before = [Release(*pair) for pair in values["before"]]
            self.entries = [
                Entry(clients=tuple(each.pop("clients")), **each) for each in values["entries"]
            ]
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{path} is no ledger ({error!r})") from None

    def add(self, entry: Entry) -> None:
        """Keep an entry, unless it is there; it is on disk when this returns."""
        if entry in self.entries:
            return
        self.entries.append(entry)
        before = [[each.noise, each.rate] for each in self.before]
        write_json(
            self._path, {"before": before, "entries": [asdict(each) for each in self.entries]}
        )

    def has(self, round_number: int) -> bool:
        """Return whether there is an entry of a round (from 1)."""
        return any(each.round == round_number for each in self.entries)

    def clip(self, round_number: int, first: float) -> float:
        """Return the clip of a round (from 1); `first` is that of the first round."""
        earlier = [each.next_clip for each in self.entries if each.round == round_number - 1]
        return earlier[-1] if earlier else first
