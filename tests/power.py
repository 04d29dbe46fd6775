"""A disk that forgets what was not synced, for tests of what a power cut leaves.

    with Disk(folder) as disk:
        work(folder)
    for state in disk.states: state.put(elsewhere)

The disk notes each fsync under `folder`.  The states are what a cut just before each of them could
leave.  In `lost` states nothing is there but what was synced.  In `named` states the names of all
files are there, and only their content is lost: many file systems write names first.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Names = dict[int, dict[str, int]]  # the entries of each folder, by inode


@dataclass(frozen=True)
class State:
    """What a power cut left."""

    top: int
    names: Names
    content: dict[int, bytes]

    def put(self, folder: Path) -> Path:
        """Write the state to a new folder."""
        self._put(self.top, folder)
        return folder

    def _put(self, inode: int, path: Path) -> None:
        if inode not in self.names:
            path.write_bytes(self.content.get(inode, b""))
            return
        path.mkdir(parents=True)
        for name, inner in self.names[inode].items():
            self._put(inner, path / name)


def on_disk(folder: Path, elsewhere: Path, work: Callable[[], object]) -> bool:
    """Return whether all that some work leaves in a folder is on the disk when it is done."""
    with Disk(folder) as disk:
        work()
        disk.states.clear()
    left = disk.states[0].put(elsewhere)
    return _files(left) == _files(folder)


def _files(folder: Path) -> dict[str, bytes | None]:
    paths = folder.rglob("*")
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in paths}


class Disk:
    """Notes what is synced in a folder while the body runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.top = folder, folder.stat().st_ino
        self.states: list[State] = []
        self._names: Names = {self.top: {}}
        self._content: dict[int, bytes] = {}
        self._folders: set[int] = set()
        self._open: list[int] = []  # an open file's inode is not given to another

    def __enter__(self) -> "Disk":
        self._sync = os.fsync
        os.fsync = self._synced
        return self

    def __exit__(self, *_: object) -> None:
        self._note()
        os.fsync = self._sync
        for descriptor in self._open:
            os.close(descriptor)

    def _synced(self, descriptor: int) -> None:
        self._note()
        wanted = os.fstat(descriptor).st_ino
        for path in (self.folder, *self.folder.rglob("*")):
            if path.stat().st_ino == wanted and path.is_dir():
                self._names[wanted] = self._entries(path)
            elif path.stat().st_ino == wanted:
                self._keep(path)
                self._content[wanted] = path.read_bytes()

    def _note(self) -> None:
        folders = (p for p in (self.folder, *self.folder.rglob("*")) if p.is_dir())
        now = {path.stat().st_ino: self._entries(path) for path in folders}
        self._folders |= now.keys()
        lost = {**{inode: {} for inode in self._folders}, **self._names}
        for names in (lost, now):
            state = State(self.top, dict(names), dict(self._content))
            if state not in self.states[-2:]:
                self.states.append(state)

    def _entries(self, path: Path) -> dict[str, int]:
        return {each.name: self._keep(each) for each in path.iterdir()}

    def _keep(self, path: Path) -> int:
        self._open.append(os.open(path, os.O_RDONLY))
        return path.stat().st_ino
