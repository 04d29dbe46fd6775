"""Updates on disk between arrival and merge, which outlive the process.

    spool.open({2: job_digest(job)})   # what is there and answers these jobs is kept
    spool.add(update)                  # in any order; on the disk when it returns
    for update in spool.accepted():    # in the order of client ids, with the path of its payload

    client-2.safetensors               # the payload
    client-2.json                      # the update, its payload's digest, the digest of its job

A payload is on the disk before the file that tells of it.  So a run that is killed in the middle of
a round finds each update whole or not at all, and only what is outstanding is trained again.
Memory does not grow with the number of clients, and the order of arrival does not matter.
"""

import errno
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from leff.errors import LeffError
from leff.files import file_digest, make_folder, sync_file, unsealed, write_json, write_synced
from leff.wire.json import MOST_BYTES, from_json, to_json
from leff.wire.messages import Update
from leff.wire.tensors import Payload

log = logging.getLogger("leff.server")


class Spool:
    """The updates of one round, in a folder; a new spool leaves the folder alone until `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.updates: dict[int, Update] = {}  # without payloads
        self._jobs: Mapping[int, str] = {}

    def open(self, jobs: Mapping[int, str], failures: bool = True) -> None:
        """Begin a round of these jobs, each by its client and the digest of the job.

        Updates on disk that answer them are kept, failures only if asked for.  Everything else in
        the folder is deleted: of another round, of a job that is another now, damaged, or half
        written.
        """
        make_folder(self.folder)
        read = {client: self._read(client, jobs[client]) for client in jobs}
        self.updates = {
            client: update
            for client, update in read.items()
            if update is not None and (failures or update.failure is None)
        }
        self._jobs = dict(jobs)
        kept = {
            path for client in self.updates for path in (self._header(client), self.payload(client))
        }
        for path in set(self.folder.iterdir()) - kept:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)  # somebody may still be sending into it
            else:
                path.unlink(missing_ok=True)

    def add(self, update: Update) -> None:
        """Keep an update of a client that has a job; a file that holds its payload is moved."""
        path, digest = self.payload(update.client), None
        if update.failure is None:
            _move(update.payload, path)
            digest = file_digest(path)
        entry = {"job": self._jobs[update.client], "payload": digest, "update": to_json(update)}
        write_json(self._header(update.client), entry)
        self.updates[update.client] = replace(update, payload=b"")

    @property
    def asked(self) -> set[int]:
        """The clients that the round has jobs for."""
        return set(self._jobs)

    def accepted(self) -> Iterator[Update]:
        """Yield the updates that did not fail, in the order of client ids.

        The payload of each is the path of its file: `tensors.unpack` reads it.
        """
        for update, path in self.files():
            yield replace(update, payload=path)

    def files(self) -> list[tuple[Update, Path]]:
        """Return the updates that did not fail, without payloads, and the files of their tensors.

        They are in the order of client ids.
        """
        updates = (self.updates[client] for client in sorted(self.updates))
        return [(each, self.payload(each.client)) for each in updates if each.failure is None]

    def payload(self, client: int) -> Path:
        """Return the path of a client's payload."""
        return self.folder / f"client-{client:d}.safetensors"

    def _header(self, client: int) -> Path:
        return self.folder / f"client-{client:d}.json"

    def _read(self, client: int, job: str) -> Update | None:
        """Return a client's update from disk, or None if none is there that answers the job."""
        header, payload = self._header(client), self.payload(client)
        try:
            if not header.exists():
                return None
            if header.stat().st_size > 2 * MOST_BYTES:
                raise ValueError(f"{header} is too long")
            entry = unsealed(header.read_bytes())
            if entry["job"] != job:
                return None
            update = from_json(Update, entry["update"])
            if update.client != client:
                raise ValueError(f"it is of client {update.client}")
            if update.failure is None and file_digest(payload) != entry["payload"]:
                raise ValueError(f"{payload} is not what was written")
        except (OSError, ValueError, LookupError, TypeError, LeffError) as error:
            log.warning(
                "the update of client %d is damaged (%s); it is asked for again", client, error
            )
            return None
        return update


def _move(payload: Payload, path: Path) -> None:
    """Put a payload on the disk under a name; a file on the same file system is only renamed."""
    unfinished = path.with_name(f".{path.name}.new")
    if isinstance(payload, bytes):
        write_synced(unfinished, payload)
    else:
        try:
            payload.replace(unfinished)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copyfile(payload, unfinished)
            payload.unlink()
        sync_file(unfinished)
    unfinished.replace(path)
