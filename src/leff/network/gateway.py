"""The gateway: the server's one public port.

    python -m leff.network.gateway DIR      # settings in DIR/server.json

It speaks TLS 1.2 or later.  `GET /hello` says who this is; `store.py` sends parts and takes
updates in; `relay.py` passes the calls of devices to Flower's SuperLink.  Nothing else gets
through.  Heads of requests, waits, connections and bodies have bounds, and what goes wrong inside
goes to the log, never out.
"""

import asyncio
import logging
import socket
import ssl
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import cast

import uvicorn
from h11 import LocalProtocolError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from leff.errors import ConfigError, LeffError, RefusedError, one_line
from leff.network.grants import Grants
from leff.network.relay import Relay
from leff.network.settings import GatewaySettings, read_secret, read_settings
from leff.network.store import Parts, Slots, Updates

CONNECTIONS = 1000  # at once
HEAD_BYTES = 2**14  # of a request
IDLE_SECONDS = 20.0  # without a whole head of a request
SEND_SECONDS = 60.0  # for a piece of an answer
log = logging.getLogger("leff.network")


def application(settings: GatewaySettings) -> ASGIApp:
    """Return the gateway as an ASGI application."""
    grants, slots = Grants(settings.grants, read_secret(settings.secret)), Slots()
    relay = Relay(settings.superlink, settings.superlink_authority)
    versions = {name: version(name) for name in ("leff", "flwr")}

    async def hello(_: Request) -> Response:
        return JSONResponse({**versions, "federation": settings.federation, "time": time.time()})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with relay.client:
            yield

    routes = [
        Route("/hello", hello),
        Route("/parts/{digest}", Parts(grants, slots), methods=["GET"]),
        Route("/updates/{digest}", Updates(grants, slots), methods=["PUT"]),
        Route("/v1/fleet/{call}", relay.fleet, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect would repeat the Host that was sent
    return _Timed(app)


class _Timed:
    """Ends answers that a device does not take, and requests that it breaks off."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        try:
            await self.app(scope, receive, send_in_time)
        except (ClientDisconnect, TimeoutError, RefusedError, LocalProtocolError) as error:
            # the last: a body that is no HTTP was refused before the application could answer
            log.info("%s ended: %s", scope.get("path"), error or type(error).__name__)


class _Bounded(H11Protocol):
    """HTTP/1.1 with a bound on connections, and on the wait for the head of a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection above the bound at once."""
        super().connection_made(transport)
        self._waited: object = None  # the request behind which it waited at the last look
        self._timer = self.loop.call_later(IDLE_SECONDS, self._look)
        if len(self.connections) > CONNECTIONS:
            log.warning("more than %d connections", CONNECTIONS)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close at once if the device is not being answered; do not wait for its farewell."""
        if self._waits():
            self.transport.abort()
        else:
            super().shutdown()

    def _waits(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def _look(self) -> None:
        if self._waits() and self._waited is self.cycle:
            self.transport.abort()
        else:
            self._waited = self.cycle if self._waits() else self
            self._timer = self.loop.call_later(IDLE_SECONDS, self._look)


def _tls(settings: GatewaySettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"certificate {settings.certificate} and key {settings.key} cannot be used: {error}"
        ) from None
    return context


def uvicorn_server(settings: GatewaySettings) -> uvicorn.Server:
    """Return the server, not yet running.  ConfigError for unusable certificates."""
    context = _tls(settings)
    config = uvicorn.Config(
        application(settings),
        http=_Bounded,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=256,
        timeout_keep_alive=int(IDLE_SECONDS),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ssl_context_factory=lambda _config, _default: context,
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.  ConfigError if host and port cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, backlog=256, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; end what uses it, or "
            "choose another host or port"
        ) from None


def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT.  ConfigError for a port or certificates that cannot be had."""
    server, sock = uvicorn_server(settings), listening(settings.host, settings.port)
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if settings.log is not None:
        handler = RotatingFileHandler(settings.log, maxBytes=10**7, backupCount=1)
        logging.basicConfig(
            handlers=[handler], level="INFO", format="%(asctime)s %(levelname)s %(message)s"
        )
        logging.getLogger("httpx").setLevel("WARNING")
    server.run([sock])


def main() -> int:
    """Serve with the settings of the folder that is the only argument; return the exit status."""
    try:
        serve(read_settings(Path(sys.argv[1])))
    except LeffError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
