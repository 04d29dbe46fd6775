"""The parts that a device keeps, by content: at most so many bytes, least recently used out first.

    cache = PartCache(folder, most_bytes=2 * 10**9)
    cache.keep(job.parts)            # the current job's parts: never removed for others
    cache.get(part)                  # its tensors, or None if it must be fetched

The order of use is the files' times of change, so it survives a restart.  A file is trusted after
its digest was checked once in this process.  Downloads that were cut stay beside the parts, and go
on where they ended.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from leff.errors import RunError
from leff.files import file_digest
from leff.wire.messages import Part
from leff.wire.parts import checked_digest
from leff.wire.tensors import unpack_file

if TYPE_CHECKING:
    import torch

UNFINISHED = ".new"


class PartCache:
    """A folder of part files of at most `most_bytes` in all."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = folder, most_bytes
        self._checked: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, parts: Iterable[Part]) -> None:
        """Protect the parts of the current job, and those alone.

        RunError if they have more bytes than the cache may, or are no parts.
        """
        sizes = {checked_digest(part): part.size_bytes for part in parts}
        if sum(sizes.values()) > self.most_bytes:
            raise RunError(
                f"the job's parts have {sum(sizes.values())} bytes, and the cache may have "
                f"{self.most_bytes}; raise the cache's limit"
            )
        self._kept = frozenset(sizes)

    def get(self, part: Part) -> "dict[str, torch.Tensor] | None":
        """Return a part's tensors, or None if it is not here or was damaged, and is removed."""
        return unpack_file(self.path(part)) if self.holds(part) else None

    def holds(self, part: Part) -> bool:
        """Return whether a part is here and whole, and note its use; a damaged one is removed."""
        path = self.path(part)
        try:
            os.utime(path)
            whole = path.stat().st_size == part.size_bytes and (
                part.digest in self._checked or file_digest(path) == part.digest
            )
        except FileNotFoundError:
            return False
        except OSError:  # such as a sector that cannot be read
            whole = False
        if whole:
            self._checked.add(part.digest)
        else:
            self._remove(path)
        return whole

    def path(self, part: Part) -> Path:
        """Return where a part is once it is whole.  RunError for a digest that cannot be one."""
        return self.folder / checked_digest(part)

    def unfinished(self, part: Part) -> Path:
        """Return where a part is while it is fetched, with room for it in the cache's limit.

        RunError if it does not fit beside the current job's parts.
        """
        self._make_room(part)
        path = self.path(part).with_suffix(UNFINISHED)
        if path.exists() and path.stat().st_size > part.size_bytes:
            path.unlink()  # of no use: nothing can be added to it
        return path

    def finish(self, part: Part) -> bool:
        """Give a fetched part its name if its content is right; remove it and say False if not."""
        path = self.path(part).with_suffix(UNFINISHED)
        if path.stat().st_size != part.size_bytes or file_digest(path) != part.digest:
            path.unlink()
            return False
        path.replace(self.path(part))
        self._checked.add(part.digest)
        return True

    def drop(self, part: Part) -> None:
        """Remove what there is of a part."""
        self._remove(self.path(part))
        self._remove(self.path(part).with_suffix(UNFINISHED))

    def free(self) -> int:
        """Remove all but the current job's parts, because the disk is full; return its free bytes.

        A cut download of the current job stays.
        """
        for path in self._removable():
            self._remove(path)
        return shutil.disk_usage(self.folder).free

    def _make_room(self, part: Part) -> None:
        room = self.most_bytes - part.size_bytes
        used = sum(
            path.stat().st_size for path in self.folder.iterdir() if path.stem != part.digest
        )
        for path in self._removable():
            if used <= room:
                return
            if path.stem != part.digest:
                used -= path.stat().st_size
                self._remove(path)
        if used > room:
            raise RunError(
                f"part {part.digest} of {part.size_bytes} bytes does not fit the cache of "
                f"{self.most_bytes} bytes beside the job's other parts; raise the cache's limit"
            )

    def _removable(self) -> list[Path]:
        """Return the files that the current job does not need, least recently used first."""
        others = [path for path in self.folder.iterdir() if path.stem not in self._kept]
        return sorted(others, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._checked.discard(path.name)
