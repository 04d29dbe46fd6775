"""How a client gets the parts of its jobs, and how its updates reach the server.

exchange = HttpsExchange(PartCache(folder, most_bytes), transfers)     # a device on a network
exchange = FolderExchange(run / "parts", run / "updates" / "arrived")  # a simulated client
exchange.keep(job.parts)
exchange.fetch(part, token)["weight"]
exchange.upload(path, digest, token)
"""

import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from leff.device.cache import PartCache
from leff.device.fetch import Transfers, client_fetch
from leff.errors import RunError
from leff.files import make_folder
from leff.wire.messages import Part
from leff.wire.parts import PartStore

if TYPE_CHECKING:
    import torch


class Exchange(Protocol):
    """The way between a client and the server; `until` is in the time of `time.monotonic`."""

    def keep(self, parts: Iterable[Part]) -> None:
        """Say what the next job needs.  RunError if that is more than may be kept."""
        ...

    def fetch(
        self, part: Part, token: str, until: float | None = None
    ) -> "Mapping[str, torch.Tensor]":
        """Return a part's tensors.  NetworkError or RunError if it cannot be had."""
        ...

    def upload(self, path: Path, digest: str, token: str, until: float | None = None) -> None:
        """Hand an update in, a file that is named by its SHA-256.  Errors as in `fetch`."""
        ...


class HttpsExchange:
    """Transfers over HTTPS, with a cache of parts."""

    def __init__(self, cache: PartCache, transfers: Transfers) -> None:
        self.cache, self.transfers = cache, transfers

    def keep(self, parts: Iterable[Part]) -> None:
        self.cache.keep(parts)

    def fetch(
        self, part: Part, token: str, until: float | None = None
    ) -> "Mapping[str, torch.Tensor]":
        return client_fetch(self.cache, self.transfers, token, until)(part)

    def upload(self, path: Path, digest: str, token: str, until: float | None = None) -> None:
        self.transfers.upload(path, digest, token, until)


class FolderExchange:
    """Folders that client and server share: on one machine, or on a file system of several."""

    def __init__(self, parts: Path, arrivals: Path) -> None:
        self._parts, self._arrivals = PartStore(parts), arrivals

    def keep(self, parts: Iterable[Part]) -> None:
        """Do nothing: the server keeps the parts."""

    def fetch(
        self, part: Part, token: str, until: float | None = None
    ) -> "Mapping[str, torch.Tensor]":
        return self._parts.get(part)

    def upload(self, path: Path, digest: str, token: str, until: float | None = None) -> None:
        unfinished = self._arrivals / f".{digest}.{uuid.uuid4().hex}.new"
        try:
            make_folder(self._arrivals)
            shutil.copyfile(path, unfinished)
            unfinished.replace(self._arrivals / digest)
        except OSError as error:
            raise RunError(f"{self._arrivals} cannot be written: {error.strerror}") from None
        finally:
            unfinished.unlink(missing_ok=True)
