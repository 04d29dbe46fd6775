"""Grants: what one device may fetch and send for one job, and how many bytes it did.

    grants = Grants(folder, secret)
    token = grants.issue(Grant(device, job, parts, folder, upload_bytes, spool, expires))
    grants.check(token).parts               # what the part store asks before each transfer
    grants.traffic(token).download_bytes    # what the driver asks after the round

A token is ``EXPIRY-ID.HMAC``.  The grant itself is a file on the server, and so are its counts.
The driver that issues and the gateway that checks are two processes, and either may be killed at
any time.  Only the server's clock counts.
"""

import hmac
import math
import os
import re
import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leff.errors import CheckpointError, RefusedError
from leff.files import make_folder, read_json, write_json

KEPT_SECONDS = 86_400  # how long a grant's files stay after its end
_TOKEN = re.compile(r"(([0-9a-f]{12})-[0-9a-f]{32})\.([0-9a-f]{64})")
_COUNTS = struct.Struct("<QQQ")


@dataclass(frozen=True)
class Grant:
    """What one device may do for one job.

    `device` is the fingerprint of its key, `job` a name of run, round and client.  `parts` are the
    bytes of each part it may fetch, by digest, and `folder` is where their files are.  It may send
    updates of at most `upload_bytes` each (0: none), which are put into `spool` and named by their
    SHA-256.  `expires` is in seconds of the server's clock.
    """

    device: str
    job: str
    parts: Mapping[str, int]
    folder: Path
    upload_bytes: int
    spool: Path
    expires: float


@dataclass(frozen=True)
class Traffic:
    """Bytes of bodies that were handed to the network or came from it, also if it cut them off.

    `uploads` is the number of different updates that arrived whole.
    """

    download_bytes: int = 0
    upload_bytes: int = 0
    uploads: int = 0


class Grants:
    """The grants in a folder, signed with the server's secret."""

    def __init__(self, folder: Path, secret: bytes) -> None:
        self.folder, self.secret = folder, secret
        self._pruned = -math.inf

    def issue(self, grant: Grant) -> str:
        """Write a grant down and return its token."""
        if not self.folder.is_dir():
            make_folder(self.folder)
        self._prune()
        name = f"{math.ceil(grant.expires * 1000):012x}-{secrets.token_hex(16)}"
        self._counts(name).write_bytes(_COUNTS.pack(0, 0, 0))
        paths = {"folder": str(grant.folder.absolute()), "spool": str(grant.spool.absolute())}
        write_json(self.folder / f"{name}.json", {**vars(grant), **paths})
        return f"{name}.{self._sign(name)}"

    def check(self, token: str) -> Grant:
        """Return the grant of a token.

        RefusedError for one that is malformed, forged, expired, or unknown here.
        """
        name = self._good(token)
        try:
            values = read_json(self.folder / f"{name}.json", "")
        except CheckpointError:
            raise RefusedError("the token's grant is damaged; wait for the next job") from None
        if values is None:
            raise RefusedError("the token is unknown or was revoked; wait for the next job")
        folder, spool = Path(values.pop("folder")), Path(values.pop("spool"))
        return Grant(**values, folder=folder, spool=spool)

    def revoke(self, token: str) -> Traffic:
        """Forget a grant and return its traffic.  Transfers under way end."""
        name, traffic = self._name(token), self.traffic(token)
        (self.folder / f"{name}.json").unlink(missing_ok=True)
        self._counts(name).unlink(missing_ok=True)
        return traffic

    def traffic(self, token: str) -> Traffic:
        """Return what was transferred under a token so far; nothing for one unknown."""
        try:
            return Traffic(*_COUNTS.unpack(self._counts(self._name(token)).read_bytes()))
        except (FileNotFoundError, struct.error):
            return Traffic()

    def count(self, token: str, download: int = 0, upload: int = 0, uploads: int = 0) -> None:
        """Add to a grant's traffic; only the gateway's one process does.

        RefusedError if the grant has expired or was revoked.
        """
        old, path = self.traffic(token), self._counts(self._good(token))
        new = old.download_bytes + download, old.upload_bytes + upload, old.uploads + uploads
        try:
            with path.open("r+b", buffering=0) as file:
                file.write(_COUNTS.pack(*new))  # in place: needs no room on the disk
        except FileNotFoundError:
            raise RefusedError("the token was revoked; wait for the next job") from None

    def _counts(self, name: str) -> Path:
        return self.folder / f"{name}.counts"

    def _sign(self, name: str) -> str:
        return hmac.new(self.secret, name.encode(), "sha256").hexdigest()

    def _good(self, token: str) -> str:
        name = self._name(token)
        if int(name[:12], 16) <= time.time() * 1000:
            raise RefusedError("the token has expired; wait for the next job")
        return name

    def _name(self, token: str) -> str:
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise RefusedError("the token is malformed; send the one of the job")
        if not hmac.compare_digest(match[3], self._sign(match[1])):
            raise RefusedError("the token was not issued by this server; join its federation")
        return match[1]

    def _prune(self) -> None:
        """Delete what expired long ago, at most once an hour."""
        if time.monotonic() - self._pruned < 3600:
            return
        self._pruned = time.monotonic()
        oldest = f"{math.ceil((time.time() - KEPT_SECONDS) * 1000):012x}"
        for entry in os.scandir(self.folder):
            if re.match(r"\.?[0-9a-f]{12}-", entry.name) and entry.name.lstrip(".") < oldest:
                Path(entry.path).unlink(missing_ok=True)
