"""Which device and file each client of a run is.

    roster = Roster(run_folder / "clients.json")
    roster.enter([("3f0c…", 0), ("3f0c…", 1)])      # in the order of admission
    roster.ids("3f0c…")                             # [0, 1]

A device is known by its key's fingerprint, and a client by its device and the place of its file
there.  Clients get numbers as they first take part, from 0.  They keep them when the run is
resumed, since random draws derive from them.
"""

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leff.errors import CheckpointError
from leff.files import read_json, write_json

Place = tuple[str, int]  # fingerprint of a device's key, place of a file on it


class Roster:
    """The clients of one run, on disk, and the run's name on the network."""

    def __init__(self, path: Path) -> None:
        """Read a roster, or begin one that is written with its first client.

        CheckpointError if it is damaged.
        """
        self._path = path
        remedy = "the run cannot tell its clients apart; start it again in a new folder"
        values = read_json(path, remedy)
        try:
            known: list[Any] = [] if values is None else values["clients"]
            self.places: list[Place] = [(str(key), int(share)) for key, share in known]
            self.run = uuid.uuid4().hex if values is None else str(values["run"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path} is damaged; {remedy}") from None
        self._ids = {place: client for client, place in enumerate(self.places)}

    def enter(self, places: Iterable[Place]) -> dict[int, Place]:
        """Number the clients that are new, in this order, and return them."""
        new: dict[int, Place] = {}
        for place in places:
            if place not in self._ids:
                self._ids[place] = len(self.places)
                new[len(self.places)] = place
                self.places.append(place)
        if new:
            self._write()
        return new

    def id_of(self, place: Place) -> int:
        """Return a client's number.  KeyError if it has not entered."""
        return self._ids[place]

    def _write(self) -> None:
        write_json(self._path, {"run": self.run, "clients": [list(each) for each in self.places]})
