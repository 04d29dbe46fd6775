"""The speed of the link to a server, measured by fetching and sending bytes over HTTP.

    link = measure_link("https://example.org/large-file")
    link.down_bytes_per_second, link.up      # 2.4e6, "not measured: the server answers POST ..."

Down: a GET of the address, for `SECONDS` or to the end of the file.  Up: a POST of random bytes to
the same address.  Many servers refuse the POST, and then there is no upload speed.  Only one
connection is used; several at a time may be faster.
"""

import ipaddress
import os
import socket
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import SplitResult, urlsplit

from leff.errors import ConfigError

SECONDS = 5.0  # the longest time for a direction
LEAST_BYTES = 1_000_000  # with fewer bytes, the connection's start takes most of the time
UPLOAD_BYTES = 4_000_000
CHUNK = 2**16


@dataclass(frozen=True)
class Link:
    """Bandwidths, None if not measured; `down` and `up` say how they were measured, or why not."""

    down_bytes_per_second: float | None = None
    up_bytes_per_second: float | None = None
    down: str = "not measured: no --server was given"
    up: str = "not measured: no --server was given"


def measure_link(url: str) -> Link:
    """Return the speed of the link to an http(s) address.

    Raises ConfigError for another kind of address, for this machine itself, and for no connection.
    """
    place = urlsplit(url)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise ConfigError(f"--server must be an http(s) address, got {url!r}")
    try:
        if _loopback(place):
            raise ConfigError(
                f"--server {url} is this machine: that measures no link; give another's address"
            )
        down, how_down = _download(place)
        up, how_up = _upload(place)
    except (OSError, HTTPException) as error:
        raise ConfigError(f"--server {url} cannot be measured: {error or repr(error)}") from None
    return Link(down, up, how_down, how_up)


def _loopback(place: SplitResult) -> bool:
    addresses = {str(info[4][0]) for info in socket.getaddrinfo(place.hostname, place.port or 80)}
    return any(ipaddress.ip_address(a.partition("%")[0]).is_loopback for a in addresses)


def _connection(place: SplitResult) -> HTTPConnection:
    kind = HTTPSConnection if place.scheme == "https" else HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=4 * SECONDS)
    connection.connect()  # before the clock starts
    return connection


def _path(place: SplitResult) -> str:
    return (place.path or "/") + (f"?{place.query}" if place.query else "")


def _download(place: SplitResult) -> tuple[float | None, str]:
    connection = _connection(place)
    try:
        connection.request("GET", _path(place), headers={"Accept-Encoding": "identity"})
        answer = connection.getresponse()
        if answer.status != 200:
            return None, f"not measured: the server answers GET with {answer.status}"
        started, received = time.perf_counter(), 0
        while chunk := answer.read(CHUNK):
            received += len(chunk)
            if time.perf_counter() - started > SECONDS:
                break
        spent = time.perf_counter() - started
    finally:
        connection.close()
    if received < LEAST_BYTES:
        return None, f"not measured: the address gave {received:,} bytes, too few; name a file"
    return received / spent, f"{received:,} bytes fetched in {spent:.3g} s"


def _upload(place: SplitResult) -> tuple[float | None, str]:
    connection = _connection(place)
    try:
        started = time.perf_counter()
        headers = {"Content-Length": str(UPLOAD_BYTES), "Content-Type": "application/octet-stream"}
        sizes = (min(CHUNK, UPLOAD_BYTES - start) for start in range(0, UPLOAD_BYTES, CHUNK))
        connection.request("POST", _path(place), body=map(os.urandom, sizes), headers=headers)
        status = connection.getresponse().status
        spent = time.perf_counter() - started
    except (ConnectionError, TimeoutError) as error:
        return None, f"not measured: the server broke off a POST ({error})"
    finally:
        connection.close()
    if not 200 <= status < 300:
        return None, f"not measured: the server answers POST with {status}"
    return UPLOAD_BYTES / spent, f"{UPLOAD_BYTES:,} bytes posted in {spent:.3g} s"
