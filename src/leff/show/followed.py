"""A run folder that may still grow: its records so far, read once each.

    followed = Followed(Path("runs/a"))
    followed.refresh()                      # True if there is something new
    followed.records, followed.result, followed.problem

Only files are read, and nothing is locked, so a folder may be of another machine, or read-only.
What cannot be read is a `problem` in plain words beside what can.
"""

import os
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leff.errors import CheckpointError, one_line
from leff.files import read_json, unsealed
from leff.record import RoundRecord

NO_FILE = (0, 0, 0)  # inode, bytes, nanoseconds of its last change
RESULT = "it is remade by `leff resume` if it is removed"


class Followed:
    """What is known of a run; `refresh` reads what was added since.  Many threads may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[RoundRecord] = []
        self.config: Mapping[str, Any] = {}
        self.environment: Mapping[str, Any] = {}
        self.result: Mapping[str, Any] | None = None
        self.written: float | None = None  # when the records were last written, seconds since 1970
        self.version = 0  # grows with every change
        self._lock = threading.Lock()
        self._problems: dict[str, str] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._offset = 0  # bytes of the records that were read

    @property
    def problem(self) -> str | None:
        """What could not be read, in plain words."""
        return "; ".join(self._problems.values()) or None

    def refresh(self) -> bool:
        """Read what is new; return whether anything is."""
        with self._lock:
            changes = [self._read_folder(), self._read_rounds(), *self._read_files()]
            self.version += any(changes)
            return any(changes)

    def _read_folder(self) -> bool:
        gone = None if self.path.is_dir() else f"the folder {self.path} is gone"
        return self._say("folder", gone)

    def _read_files(self) -> list[bool]:
        reads = {
            "config.toml": self._read_config,
            "environment.json": self._read_environment,
            "result.json": self._read_result,
        }
        return [self._changed(name) and self._try(name, read) for name, read in reads.items()]

    def _try(self, name: str, read: Any) -> bool:
        problem = None
        try:
            read(self.path / name)
        except FileNotFoundError:  # not yet there, or no more: `_read_folder` says the latter
            pass
        except (CheckpointError, OSError, ValueError) as error:
            problem = f"{name} cannot be read: {one_line(str(error))}"
        self._say(name, problem)
        return True

    def _read_config(self, path: Path) -> None:
        self.config = tomllib.loads(path.read_text(encoding="utf-8"))

    def _read_environment(self, path: Path) -> None:
        self.environment = read_json(path, "the run cannot go on") or {}

    def _read_result(self, path: Path) -> None:
        self.result = read_json(path, RESULT)

    def _read_rounds(self) -> bool:
        """Read the records that were appended; all of them if the file was cut back meanwhile."""
        path = self.path / "rounds.jsonl"
        before = self._stamps.get("rounds.jsonl") or NO_FILE
        if not self._changed("rounds.jsonl"):
            return False
        now = self._stamps["rounds.jsonl"]
        if not now:
            return True  # what was read stays
        if now[0] != before[0] or now[1] < self._offset:
            self._offset, self.records = 0, []
        self._say("rounds.jsonl", None)
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                payload = file.read()
                self.written = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return True
        except OSError as error:
            return self._say("rounds.jsonl", f"rounds.jsonl cannot be read: {error}")
        for line in payload.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # it is being written
            number = len(self.records)
            try:
                record = RoundRecord.from_dict(unsealed(line))
                if record.round != number:
                    raise ValueError(f"it is of round {record.round}, not {number}")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                reason = f"rounds.jsonl, line {number + 1} cannot be read ({one_line(str(error))})"
                self._say("rounds.jsonl", f"{reason}; what follows it is not shown")
                break
            self.records.append(record)
            self._offset += len(line)
        return True

    def _say(self, name: str, problem: str | None) -> bool:
        """Set or clear a problem; return whether that is a change."""
        before = self._problems.get(name)
        if problem is None:
            self._problems.pop(name, None)
        else:
            self._problems[name] = problem
        return before != problem

    def _changed(self, name: str) -> bool:
        """Return whether a file is not what it was when this was last asked."""
        try:
            stat = (self.path / name).stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError:
            stamp = ()
        if stamp == self._stamps.get(name, ()):
            return False
        self._stamps[name] = stamp
        return True
