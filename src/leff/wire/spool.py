"""Updates on disk between arrival and merge.

    spool.add(update)                  # in any order
    for update in spool.accepted():    # in the order of client ids, one in memory at a time

Memory does not grow with the number of clients, and the order of arrival does not matter.
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from leff.wire.messages import Update


class Spool:
    """The updates of one round, in a folder that `clear` empties at the start of the next.

    A new spool leaves the folder alone: another process may be at work in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.updates: dict[int, Update] = {}  # without payloads

    def clear(self) -> None:
        """Forget every update."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.updates = {}

    def add(self, update: Update) -> None:
        """Keep an update, with its payload on disk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path(update.client).write_bytes(update.payload)
        self.updates[update.client] = replace(update, payload=b"")

    def accepted(self) -> Iterator[Update]:
        """Yield the updates that did not fail, with their payloads, in the order of client ids."""
        for update, path in self.files():
            yield replace(update, payload=path.read_bytes())

    def files(self) -> list[tuple[Update, Path]]:
        """Return the updates that did not fail, without payloads, and the files of their tensors.

        They are in the order of client ids.
        """
        updates = (self.updates[client] for client in sorted(self.updates))
        return [(each, self._path(each.client)) for each in updates if each.failure is None]

    def _path(self, client: int) -> Path:
        return self.folder / f"client-{client:d}.safetensors"
