"""A device's transfers: parts from the server, its update to the server.

    transfers = Transfers("https://fl.example:9443", ca_file)
    fetch = client_fetch(cache, transfers, token)      # what `leff.client.train` takes
    transfers.upload(path, digest, token)

Only the federation's own authority is trusted.  A transfer that is cut is tried again, and a
download goes on where it ended.
"""

import errno
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import httpx

from leff.device.cache import PartCache
from leff.device.patience import Patience, TryAgainError
from leff.device.tls import context_for, reason
from leff.errors import ConfigError, NetworkError, RefusedError, RunError, one_line, shown
from leff.wire.messages import Part

if TYPE_CHECKING:
    import torch

    from leff.client.model import Fetch

PATIENCE_SECONDS = 600.0  # without a byte, before a transfer is given up
TIMEOUT_SECONDS = 30.0  # without a byte, before a connection is given up
LATER = (408, 429, 500, 502, 503, 504, 507)  # answers that may be different next time
DAMAGED = 3  # downloads with a wrong digest, before the part is given up
TEXT_BYTES = 4096  # the most of an answer that is text
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FullDiskError(RunError):
    """This device's disk is full."""


@dataclass(frozen=True)
class Hello:
    """What a server says of itself: versions, its federation, its clock in seconds."""

    leff: str
    flwr: str
    federation: str
    time: float


class Transfers:
    """The connection to a federation's server.

    A transfer is given up `patience_seconds` after its last byte, over all tries, and a connection
    `timeout_seconds` after it.  Proxies of the environment are used only if asked for.
    """

    def __init__(
        self,
        url: str,
        ca_file: Path,
        patience_seconds: float = PATIENCE_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        use_proxies: bool = False,
    ) -> None:
        self.url, self.patience_seconds = url, patience_seconds
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme != "https" or not address.host:
            raise ConfigError(
                f"a server's address must be as https://fl.example:9443, got {shown(url)}"
            )
        self._client = httpx.Client(
            base_url=url,
            verify=context_for(ca_file),
            timeout=timeout_seconds,
            trust_env=use_proxies,
            headers={"Accept-Encoding": "identity"},
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hello(self) -> Hello:
        """Ask the server who it is, once.  NetworkError if it cannot be reached or trusted."""
        with self._answer("GET", "/hello") as answer:
            content = _start_of(answer)
        try:
            said = cast("dict[str, Any]", json.loads(content))
            leff, flwr, federation = (str(said[name]) for name in ("leff", "flwr", "federation"))
            return Hello(leff, flwr, federation, float(said["time"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise NetworkError(f"{self.url} is no server of LEFF; look at the address") from None

    def fetch(self, part: Part, token: str, cache: PartCache, until: float | None = None) -> None:
        """Fetch a part into the cache.

        NetworkError if the patience or `until` (`time.monotonic`) ends, or if wrong content
        arrives again and again; RefusedError if the server says no; RunError if the part does not
        fit the cache, FullDiskError if it does not fit the disk.
        """
        patience, damaged, freed = Patience(self.patience_seconds, until), 0, False
        while True:
            try:
                self._download(part, token, cache, patience)
                if cache.finish(part):
                    return
                damaged += 1
                text = f"{self.url}: part {part.digest} arrived with another digest"
                raise (TryAgainError if damaged < DAMAGED else NetworkError)(text)
            except TryAgainError as error:
                patience.wait(error)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if freed:
                    cache.drop(part)
                    raise FullDiskError(
                        f"the disk of {cache.folder} is full: part {part.digest} has "
                        f"{part.size_bytes} bytes; free some, or move the device's folder"
                    ) from None
                cache.free()
                freed = True

    def upload(self, path: Path, digest: str, token: str, until: float | None = None) -> None:
        """Send an update, which the server names by its digest.  Errors as in `fetch`."""
        patience = Patience(self.patience_seconds, until)
        headers = {"Content-Length": str(path.stat().st_size), **_bearer(token)}
        while True:
            try:
                with path.open("rb") as file:
                    pieces = _watched(iter(lambda: file.read(2**16), b""), patience)
                    with self._answer("PUT", f"/updates/{digest}", headers, pieces) as answer:
                        _start_of(answer)  # to its end, so that the connection can go on
                        return
            except TryAgainError as error:
                patience.wait(error)

    def _download(self, part: Part, token: str, cache: PartCache, patience: Patience) -> None:
        """Fetch what is missing of a part's unfinished file."""
        path = cache.unfinished(part)
        have = path.stat().st_size if path.exists() else 0
        if have == part.size_bytes:
            return
        headers = {**_bearer(token), "Range": f"bytes={have}-"}
        with self._answer("GET", f"/parts/{part.digest}", headers) as answer:
            range_given = answer.headers.get("content-range", "")
            goes_on = answer.status_code == 206 and range_given.startswith(f"bytes {have}-")
            with path.open("ab" if goes_on else "wb") as file:
                for piece in _watched(answer.iter_raw(), patience):
                    if file.tell() + len(piece) > part.size_bytes:
                        raise NetworkError(
                            f"{self.url}: more arrived than part {part.digest} has bytes"
                        )
                    file.write(piece)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        content: Iterator[bytes] | None = None,
    ) -> Generator[httpx.Response]:
        """Give the body a good answer, or raise what another one or none means."""
        try:
            with self._client.stream(method, path, headers=headers, content=content) as answer:
                if answer.is_success:
                    yield answer
                    return
                status, text = answer.status_code, _start_of(answer).decode(errors="replace")
        except httpx.TransportError as error:
            text, final = reason(error)
            raise (NetworkError if final else TryAgainError)(f"{self.url}: {text}") from None
        kind = TryAgainError if status in LATER else RefusedError
        raise kind(f"{self.url} answered {status}: {one_line(text)[:300]}")


def client_fetch(
    cache: PartCache, transfers: Transfers, token: str, until: float | None = None
) -> "Fetch":
    """Return how a client gets its parts: from the cache, or else from the server."""

    def fetch(part: Part) -> "Mapping[str, torch.Tensor]":
        tensors = cache.get(part)
        if tensors is None:
            transfers.fetch(part, token, cache, until)
            tensors = cache.get(part)
        if tensors is None:
            raise RunError(f"{cache.path(part)} changed on the disk while it was read")
        return tensors

    return fetch


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _watched(pieces: Iterator[bytes], patience: Patience) -> Iterator[bytes]:
    for piece in pieces:
        patience.moved()
        yield piece


def _start_of(answer: httpx.Response) -> bytes:
    """Return the first bytes of an answer; whoever sends more is not read to the end."""
    content = b""
    for piece in answer.iter_raw():
        content += piece
        if len(content) >= TEXT_BYTES:
            break
    return content[:TEXT_BYTES]
