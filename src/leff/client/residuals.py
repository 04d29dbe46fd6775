"""What rounding lost of a client's earlier updates, kept by the client itself.

    residuals = Residuals(folder, rounds=2)
    before = residuals.before(round)         # by name; added to the next difference
    residuals.keep(round, {**before, **lost})

This is the memory of error feedback (Seide et al. 2014; Karimireddy et al. 2019; `wire.codec`).
There is a file a round in which the client took part.  A round that is done again, since a run was
killed in it, reads what was there before that round and writes the same again.

A client takes it that an update that it made was merged.  It cannot know better when it needs to:
the server may merge or refuse an update long after the client has gone.  If it was not merged, what
training changed is lost, as it is without rounding; only what rounding lost of it comes later.  A
client that fails before it has an update keeps its residuals as they were.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from leff.files import make_folder, write_atomically
from leff.wire.tensors import pack, unpack

log = logging.getLogger("leff.client")
NAME = re.compile(r"round-(\d{6,9})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class Residuals:
    """A folder of one client's residuals in one run.

    `rounds` is how many rounds a resumed run may go back to do again, the round at work counted.
    """

    folder: Path
    rounds: int

    def of(self, client: int) -> "Residuals":
        """Return the residuals of one client, in a folder below this one."""
        return Residuals(self.folder / f"client-{client:d}", self.rounds)

    def before(self, round: int) -> dict[str, torch.Tensor]:
        """Return the residuals as they were before a round, by name; empty if there are none.

        A damaged file is left out with a warning: the residuals then begin anew.
        """
        earlier = [(number, path) for number, path in self._files() if number < round]
        if not earlier:
            return {}
        path = max(earlier)[1]
        payload = path.read_bytes()
        if hashlib.sha256(payload).hexdigest() not in path.name:
            log.warning("%s is damaged; what rounding lost before is forgotten", path)
            return {}
        return unpack(payload)

    def keep(self, round: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keep the residuals after a round; they are on the disk when this returns.

        Those of later rounds are deleted, and those that no resumed run needs.
        """
        make_folder(self.folder)
        payload = pack(tensors)
        digest = hashlib.sha256(payload).hexdigest()
        own = self.folder / f"round-{round:06d}-{digest}.safetensors"
        write_atomically(own, payload)
        first = round - self.rounds + 1  # the first round that may be done again
        before = max((number for number, _ in self._files() if number < first), default=first)
        for number, path in self._files():
            if not before <= number <= round or (number == round and path != own):
                path.unlink()

    def _files(self) -> list[tuple[int, Path]]:
        found = ((NAME.fullmatch(path.name), path) for path in self.folder.glob("round-*"))
        return [(int(match[1]), path) for match, path in found if match]
