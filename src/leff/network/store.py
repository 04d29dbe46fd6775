"""The part store: devices fetch the parts of their jobs, and send their updates.

    GET /parts/SHA256        of the token's grant; one Range, so that a cut transfer goes on
    PUT /updates/SHA256      hashed on arrival; in the spool, under its digest, once it is complete

Neither is ever whole in memory.  What a device may do stands in its grant; its bytes are counted
there as they pass, so a gateway that is killed has counted them.
"""

import asyncio
import errno
import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager
from pathlib import Path

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from leff.errors import RefusedError
from leff.files import sync_folder
from leff.network.grants import Grant, Grants

CHUNK_BYTES = 2**17  # read, written and sent at a time
RECEIVE_SECONDS = 60.0  # for as many bytes of an update
TRANSFERS = 4  # at once, of one device
UPLOADS = 3  # different ones under one grant: a device that was killed may do its job again
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Slots:
    """How many transfers each device has under way."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()

    @contextmanager
    def take(self, device: str) -> Generator[None]:
        """Hold one slot; a refusal if all of the device's are taken."""
        if self.taken[device] >= TRANSFERS:
            raise HTTPException(
                429, f"this device has {TRANSFERS} transfers under way", {"Retry-After": "1"}
            )
        self.taken[device] += 1
        try:
            yield
        finally:
            self.taken[device] -= 1
            self.taken += Counter()  # forget those at zero


class Parts:
    """Sends parts of the token's grant (`GET`, `HEAD`)."""

    def __init__(self, grants: Grants, slots: Slots) -> None:
        self.grants, self.slots = grants, slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        token, grant = granted(self.grants, request)
        digest = str(request.path_params["digest"])
        size = grant.parts.get(digest)
        if size is None:
            raise HTTPException(403, "the token is not for this part; fetch those of the job")
        path = grant.folder / digest
        if not path.is_file() or path.stat().st_size != size:
            raise HTTPException(404, "the part is no longer on the server; wait for the next job")
        first, end = asked_range(request, size)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "private, max-age=31536000, immutable",
            "Content-Length": str(end - first),
            "Content-Type": "application/octet-stream",
            "ETag": f'"{digest}"',
        }
        whole = (first, end) == (0, size)
        if not whole:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        status = 200 if whole else 206
        if request.method == "HEAD":
            await Response(None, status, headers)(scope, receive, send)
            return
        chunks = self._chunks(token, path, first, end)
        with self.slots.take(grant.device):
            async with aclosing(chunks):  # also if the device breaks off
                await StreamingResponse(chunks, status, headers)(scope, receive, send)

    async def _chunks(self, token: str, path: Path, first: int, end: int) -> AsyncGenerator[bytes]:
        with path.open("rb", buffering=0) as file:
            file.seek(first)
            while first < end:
                chunk = await anyio.to_thread.run_sync(file.read, min(CHUNK_BYTES, end - first))
                if not chunk:
                    return
                self.grants.count(token, download=len(chunk))
                first += len(chunk)
                yield chunk


class Updates:
    """Takes updates in (`PUT`)."""

    def __init__(self, grants: Grants, slots: Slots) -> None:
        self.grants, self.slots = grants, slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        token, grant = granted(self.grants, request)
        digest = str(request.path_params["digest"])
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise HTTPException(404, "an update is named by 64 lowercase hexadecimal digits")
        size = body_bytes(request, grant.upload_bytes, "this job's update")
        if size == 0:
            raise HTTPException(400, "the update is empty")
        with self.slots.take(grant.device):
            if not (grant.spool / digest).is_file():
                self._within(token)
                await self._spool(request, token, grant, digest)
        await JSONResponse({"bytes": size})(scope, receive, send)

    def _within(self, token: str) -> None:
        if self.grants.traffic(token).uploads >= UPLOADS:
            raise HTTPException(409, f"this job has sent {UPLOADS} different updates; that is all")

    async def _spool(self, request: Request, token: str, grant: Grant, digest: str) -> None:
        unfinished = grant.spool / f".{digest}.{secrets.token_hex(8)}.new"
        try:
            grant.spool.mkdir(parents=True, exist_ok=True)
            if await self._write(request, token, unfinished) != digest:
                raise HTTPException(400, "the update's bytes have another SHA-256; send it again")
            if not (grant.spool / digest).exists():
                self._within(token)
                self.grants.count(token, uploads=1)
            unfinished.replace(grant.spool / digest)
            await anyio.to_thread.run_sync(sync_folder, grant.spool)
        except RefusedError as error:
            raise HTTPException(401, str(error)) from None
        except TimeoutError:
            raise HTTPException(408, f"too little arrived in {RECEIVE_SECONDS:g} s") from None
        except OSError as error:
            if error.errno in FULL:
                raise HTTPException(507, "the server's disk is full; try again later") from None
            raise
        finally:
            unfinished.unlink(missing_ok=True)

    async def _write(self, request: Request, token: str, path: Path) -> str:
        """Write a request's body to a new file, synced, and return its SHA-256."""
        found = hashlib.sha256()
        with path.open("xb") as file:

            def keep(piece: bytes) -> None:
                found.update(piece)
                file.write(piece)

            async for piece in pieces(request):
                self.grants.count(token, upload=len(piece))
                await anyio.to_thread.run_sync(keep, piece)
            await anyio.to_thread.run_sync(file.flush)
            await anyio.to_thread.run_sync(os.fsync, file.fileno())
        return found.hexdigest()


async def pieces(request: Request) -> AsyncGenerator[bytes]:
    """Yield a body in pieces of about `CHUNK_BYTES`.

    TimeoutError if one takes too long.  What arrived before that, or before a cut, comes first.
    """
    stream, ended = request.stream(), False
    while not ended:
        held = bytearray()
        try:
            async with asyncio.timeout(RECEIVE_SECONDS):
                while not ended and len(held) < CHUNK_BYTES:
                    chunk = await anext(stream, b"")
                    held += chunk
                    ended = not chunk
        except (ClientDisconnect, TimeoutError):
            yield bytes(held)
            raise
        yield bytes(held)


def granted(grants: Grants, request: Request) -> tuple[str, Grant]:
    """Return a request's token and its grant; a refusal without a good one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN")
    try:
        return token, grants.check(token)
    except RefusedError as error:
        raise HTTPException(401, str(error)) from None


def body_bytes(request: Request, most: int, what: str) -> int:
    """Return how many bytes a request announces; a refusal without a number, or above `most`."""
    size = request.headers.get("content-length", "")
    if not re.fullmatch(r"\d{1,18}", size, re.A) or "transfer-encoding" in request.headers:
        raise HTTPException(411, "Content-Length is needed")
    if int(size) > most:
        raise HTTPException(413, f"{what} may have at most {most} bytes, not {int(size)}")
    return int(size)


def asked_range(request: Request, size: int) -> tuple[int, int]:
    """Return the first byte asked for and the one behind the last.

    A Range that is not one plain range, or that belongs to another content, is ignored, as RFC
    9110 allows; one that starts behind the end is refused.
    """
    asked = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", request.headers.get("range", ""), re.A)
    same = request.headers.get("if-range", "") in ("", f'"{request.path_params["digest"]}"')
    if asked is None or not same:
        return 0, size
    first, last = int(asked[1]), int(asked[2] or size)
    if first >= size:
        raise HTTPException(
            416, "the range is behind the end", {"Content-Range": f"bytes */{size}"}
        )
    return (first, min(last + 1, size)) if first <= last else (0, size)
