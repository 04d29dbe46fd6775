"""Serves the page, and tells it when a run has something new.

    server = PageServer(Pages(Sources([Path("runs")])), served_at("127.0.0.1", 0))
    print(server.at.address())
    server.run()

On loopback anyone on this machine may look, but no page of another site: requests must name a
loopback host.  On another address a token is needed, once, in the address; then it is in a cookie.
"""

import asyncio
import json
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leff.errors import ConfigError, LeffError
from leff.files import finite
from leff.show.pages import Pages
from leff.show.script import STATIC, script

LOOK_SECONDS = 1.0  # between looks at a run that is shown
LOOK_AT_ALL_SECONDS = 5.0  # at all runs
BEAT_SECONDS = 15.0  # between signs of life
COOKIE = "leff-show"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class ServedAt:
    """Where the page is: a host, a port (0: any free one), and a token if it takes one."""

    host: str = "127.0.0.1"
    port: int = 0
    token: str | None = None

    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        query = f"?token={quote(self.token)}" if self.token else ""
        return f"http://{host}:{self.port}/{query}"


def served_at(host: str, port: int) -> ServedAt:
    """Return where to serve, with a new token unless the host is loopback."""
    return ServedAt(host, port, None if is_loopback(host) else secrets.token_urlsafe(16))


def is_loopback(host: str) -> bool:
    """Return whether a host, by name or number, is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class PageServer:
    """A server whose port is open.  Raises ConfigError if the port is taken or not to be had."""

    def __init__(self, pages: Pages, at: ServedAt) -> None:
        family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((at.host, at.port))
            self._socket.listen(64)
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise ConfigError(
                f"the page cannot be served at {at.host}, port {at.port} ({error}); "
                "give another --port, or none for any that is free"
            ) from None
        self.at = ServedAt(at.host, self._socket.getsockname()[1], at.token)
        ending = asyncio.Event()
        config = uvicorn.Config(
            application(pages, self.at, ending),
            loop="asyncio",
            http="h11",
            ws="none",
            log_level="error",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, ending)

    def run(self) -> None:
        """Serve until `stop`, or until the process is interrupted."""
        self._server.run([self._socket])

    def stop(self) -> None:
        """End `run`, which closes the port."""
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Ends the streams of events before it waits for what is still open."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.set()
        await super().shutdown(sockets)


def application(pages: Pages, at: ServedAt, ending: asyncio.Event) -> ASGIApp:
    """Return the page and its values as an ASGI application; streams end once `ending` is set."""

    async def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def code(_: Request) -> Response:
        return Response(script(), media_type="text/javascript")

    def values(make: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                found = await run_in_threadpool(make, request)
            except LeffError as error:
                return JSONResponse({"problem": str(error)}, status_code=404)
            return Response(json_text(found), media_type="application/json")

        return answer

    async def events(request: Request) -> Response:
        name, since = request.query_params.get("run"), request.query_params.get("since", "")
        known = int(since) if since.isdecimal() and len(since) < 10 else -1
        found = _events(pages, name, known, ending)
        return StreamingResponse(found, media_type="text/event-stream")

    routes = [
        Route("/", page),
        Route("/page.js", code),
        Route("/api/index", values(lambda _: pages.index())),
        Route("/api/run", values(lambda r: pages.run(_name(r)))),
        Route("/api/round", values(lambda r: pages.round(_name(r), _number(r)))),
        Route("/api/curve", values(lambda r: pages.curve(_name(r)))),
        Route("/api/plan", values(lambda r: pages.plan(_name(r)))),
        Route("/api/devices", values(lambda r: pages.devices(_name(r)))),
        Route("/api/events", events),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return _Guarded(Starlette(routes=routes), at)


def json_text(values: Any) -> str:
    """Return JSON, with null for every NaN and infinity."""
    try:
        return json.dumps(values, allow_nan=False)
    except ValueError:
        return json.dumps(finite(values), allow_nan=False)


def _name(request: Request) -> str:
    return request.query_params.get("name", "")


def _number(request: Request) -> int:
    given = request.query_params.get("round", "")
    if not given.isdecimal() or len(given) > 9:
        raise ConfigError(f"round must be a number, got {given[:20]!r}")
    return int(given)


async def _events(
    pages: Pages, name: str | None, known: int, ending: asyncio.Event
) -> AsyncGenerator[str]:
    """Yield an event whenever a run, or any run, is not as it was at version `known`."""
    pause = LOOK_AT_ALL_SECONDS if name is None else LOOK_SECONDS
    quiet = 0.0
    yield "retry: 2000\n\n"
    while not ending.is_set():
        try:
            found = await run_in_threadpool(partial(pages.version, name))
        except LeffError:
            found = -1  # the run is shown no more
        if found != known:
            yield "event: changed\ndata: {}\n\n"
            quiet = 0.0
        elif quiet >= BEAT_SECONDS:
            yield ": still here\n\n"
            quiet = 0.0
        known, quiet = found, quiet + pause
        with suppress(TimeoutError):
            await asyncio.wait_for(ending.wait(), pause)


class _Guarded:
    """Lets only those through who may look, and sets the headers of every answer."""

    def __init__(self, app: ASGIApp, at: ServedAt) -> None:
        self._app, self._at = app, at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to who may not look, or who just showed the token; else None."""
        token = self._at.token
        if token is None:
            host = Headers(scope=scope).get("host", "").rpartition(":")
            name = host[0] if host[1] and not host[2].endswith("]") else "".join(host)
            return None if is_loopback(name) else _refused("this page is for this machine alone")
        request = Request(scope)
        given = request.query_params.get("token", "")
        if secrets.compare_digest(given.encode(), token.encode()):
            answer = RedirectResponse(request.url.remove_query_params("token").path)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return answer
        kept = request.cookies.get(COOKIE, "")
        if secrets.compare_digest(kept.encode(), token.encode()):
            return None
        return _refused("open the address that `leff show` printed, with its token")


def _refused(why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status_code=403)
