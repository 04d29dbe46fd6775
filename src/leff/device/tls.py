"""Whom a device trusts, and what a failed connection means in plain words."""

import socket
import ssl
from pathlib import Path

import httpx

from leff.errors import ConfigError, shown

# numbers of OpenSSL's X509_V_ERR_…
_NOT_YET, _EXPIRED, _OTHER_HOST = 9, 10, (62, 64)


def context_for(authority: Path) -> ssl.SSLContext:
    """Return settings that trust one authority alone, in TLS 1.2 or later.

    ConfigError if its file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError):
        raise ConfigError(
            f"{authority} cannot be read as a certificate; join the federation again"
        ) from None
    return context


def reason(error: BaseException) -> tuple[str, bool]:
    """Return why a connection failed, and whether another try is no use."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _distrust(cause.verify_code), True
        if isinstance(cause, socket.gaierror):
            return "the host is unknown; look at the address and the network", False
        if isinstance(cause, ConnectionRefusedError):
            return "the connection is refused; is the server running, and the port right?", False
        if isinstance(cause, ssl.SSLError) and cause.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
        ):
            return "it does not speak TLS; look at the port", True
        if isinstance(cause, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
            return "the request cannot be sent; look at the address", True
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time", False
    return f"the connection was cut ({shown(str(error) or type(error).__name__)})", False


def _distrust(code: int) -> str:
    if code == _EXPIRED:
        return "its certificate has expired; renew it on the server, or set this device's clock"
    if code == _NOT_YET:
        return "its certificate is not valid yet; set this device's clock"
    if code in _OTHER_HOST:
        return "its certificate is for another host; add this one on the server"
    return "its certificate is of another federation; join this one with its join file"


def _causes(error: BaseException | None) -> "list[BaseException]":
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
