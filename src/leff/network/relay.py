"""Passes the calls that a device makes to Flower's SuperLink on, and no others.

The SuperLink listens on this machine alone: whoever reaches its other calls can run code.
"""

import asyncio
import ssl
from contextlib import nullcontext
from pathlib import Path

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from leff.network.store import body_bytes

CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "confirm-message-received",
    "get-run",
    "get-fab",
)
BODY_BYTES = 2_000_000  # Flower splits what is larger
SMALL_BYTES = 2**16  # as many as the HTTP server holds anyway
LARGE_BODIES = 16  # in memory at once
BODY_SECONDS, ANSWER_SECONDS = 20.0, 30.0
SENT = (
    "content-type",
    "accept",
    "flwr-public-key",
    "flwr-signature",
    "flwr-timestamp",
    "flwr-package-name",
    "flwr-package-version",
    "flwr-component-name",
)
RETURNED = ("content-type", "flwr-version-incompatibility-message")


class Relay:
    """The way to the SuperLink, with connections that stay open."""

    def __init__(self, url: str, authority: Path | None) -> None:
        verify = True if authority is None else ssl.create_default_context(cafile=authority)
        self.client = httpx.AsyncClient(
            base_url=url,
            verify=verify,
            trust_env=False,
            timeout=ANSWER_SECONDS,
            # the SuperLink closes idle connections after 5 s, so they are closed here before
            limits=httpx.Limits(max_connections=64, keepalive_expiry=3.0),
        )
        self.large = asyncio.Semaphore(LARGE_BODIES)

    async def fleet(self, request: Request) -> Response:
        """Answer `POST /v1/fleet/{call}` with what the SuperLink answers."""
        call = request.path_params["call"]
        if call not in CALLS:
            raise HTTPException(404)
        size = body_bytes(request, BODY_BYTES, "a call")
        async with self.large if size > SMALL_BYTES else nullcontext():
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await request.body()
            except TimeoutError:
                raise HTTPException(408, "the call did not arrive in time") from None
            answer = await self._post(call, request, body)
        headers = {name: answer.headers[name] for name in RETURNED if name in answer.headers}
        return Response(answer.content, answer.status_code, headers)

    async def _post(self, call: str, request: Request, body: bytes) -> httpx.Response:
        headers = {name: request.headers[name] for name in SENT if name in request.headers}
        try:
            return await self.client.post(f"/v1/fleet/{call}", content=body, headers=headers)
        except httpx.ConnectError:
            raise HTTPException(503, "the SuperLink is down; try again later") from None
        except httpx.TransportError:
            raise HTTPException(502, "the SuperLink did not answer; try again") from None
