"""Hostile requests on the real port: refusals only, and the gateway stays up and small."""

import random
import socket
from contextlib import suppress

import psutil
import pytest
from gateways import Gateway, read_answer

GROWTH = 30_000_000  # bytes of memory
METHODS = ["GET", "PUT", "POST", "HEAD", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"]
HEADERS = [
    "Host: a",
    "Host: a\r\nHost: b",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 0x5",
    "Content-Length: " + "9" * 5000,
    "Content-Length: 99999999999999999999",
    "Content-Length: 5\r\nContent-Length: 6",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Connection: close",
    "Range: bytes=0-",
    "If-Range: x",
    "Authorization: Bearer x.y",
    "Content-Type: \xff\xfe",
    "X: " + "y" * 20_000,
    " folded",
]
ENDS = [" HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/9.9\r\n", "\r\n", "\r\n\r\n", "\n", "\r", "\0"]
PATHS = ["/hello", "/parts/", "/updates/", "/v1/fleet/get-run", "/../", "%00", "%2e%2e%2f", "//"]
OTHERS = [
    "0" * 64,
    "?a=b",
    "#",
    " ",
    ":",
    "5\r\nabcde\r\n",
    "F" * 16,
    "0\r\n\r\n",
    "PRI * HTTP/2.0",
]
PIECES = [*(m + " " for m in METHODS), *(h + "\r\n" for h in HEADERS), *ENDS, *PATHS, *OTHERS]
PIECES = [piece.encode("latin-1") for piece in PIECES] + [b"\x16\x03\x01\x02\x00"]  # TLS's hello


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A gateway of its own process, so that its memory is its own, and a small part."""
    made = Gateway(tmp_path_factory.mktemp("fuzz"))
    process = made.start()
    yield made, psutil.Process(process.pid)
    process.kill()
    process.wait()


def any_bytes(rng, good):
    """Pieces of requests in any order, noise, or a good request with damage."""
    kind = rng.randrange(3)
    if kind == 0:
        return b"".join(rng.choices(PIECES, k=rng.randrange(1, 12)))
    if kind == 1:
        return rng.randbytes(rng.choice([1, 50, 5000]))
    damaged = bytearray(good)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(damaged))
        new = rng.choice([b"", rng.randbytes(2), rng.choice(PIECES)])
        damaged[at : at + rng.randrange(3)] = new
    return bytes(damaged)


def statuses(tls):
    """The statuses of all answers on a connection until the other side, or nobody, ends it."""
    content = b""
    with suppress(OSError):
        while piece := tls.recv(2**16):
            content += piece
    lines = [line for line in content.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return [int(line.split()[1]) for line in lines], content


@pytest.mark.soak(150, 30_000)
def test_any_bytes(running, count):
    made, process = running
    rng, part = random.Random(0), made.part()
    inside = (made.parts.folder / part.digest).read_bytes(), (made.folder / "secret").read_bytes()
    token = made.token()  # of a grant that has no part
    good = (
        f"GET /parts/{part.digest} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
        "Range: bytes=5-9\r\nConnection: close\r\n\r\n"
    ).encode()
    for number in range(count):
        if number == count // 10:
            before = process.memory_info().rss
        with made.tls() as tls:
            with suppress(OSError):
                tls.sendall(any_bytes(rng, good) + b"\r\n\r\n")
                tls.settimeout(0.02)
            found, content = statuses(tls)
        assert not any(secret[:99] in content for secret in inside)
        assert b'"federation"' in content if 200 in found else b"federation" not in content
        assert all(status in (200, 503) or 400 <= status < 500 for status in found)
    assert made.answers()
    assert process.memory_info().rss < before + GROWTH
    assert "Traceback" not in (made.folder / "gateway.log").read_text()


@pytest.mark.soak(100, 20_000)
def test_bytes_before_tls(running, count):
    made, process = running
    rng, before = random.Random(1), process.memory_info().rss
    for _ in range(count):
        sent = rng.choice([b"", rng.choice(PIECES), rng.randbytes(300)])
        with socket.create_connection(("127.0.0.1", made.port), 5) as plain, suppress(OSError):
            plain.sendall(sent)
    assert made.answers()
    assert process.memory_info().rss < before + GROWTH


def hostile(rng, digest, token):
    """A well-formed request without a good token."""
    names = [digest, digest.upper(), "..", "%2e%2e", "", "a" * 300, "%00", digest[:-1], "*", "%ff"]
    roots = ["parts", "updates", "v1/fleet", "hello", "v1/control", "", "..", "docs", "metrics"]
    path = "/" + "/".join([rng.choice(roots), *rng.choices(names, k=rng.randrange(3))])
    at = rng.randrange(len(token))
    other = "x" if token[at] == "0" else "0"
    changed = token[:at] + other + token[at + 1 :]
    tokens = ["x", token[::-1], changed, token + "0", "." * 100]
    headers = {"Authorization": f"Bearer {rng.choice(tokens)}"}
    for name in rng.sample(["Range", "If-Range", "Accept", "X-Forwarded-For", "Cookie"], k=2):
        headers[name] = rng.choice(["bytes=0-", "bytes=" + "0-," * 500, "x", "", "a;b=c"])
    return rng.choice(METHODS), path, headers, rng.randbytes(rng.choice([0, 5, 3000]))


@pytest.mark.soak(300, 50_000)
def test_well_formed_requests(running, count):
    made, process = running
    rng, part = random.Random(2), made.part()
    token = made.token(part)
    with made.transfers() as transfers:
        for number in range(count):
            if number == count // 10:
                before = process.memory_info().rss
            method, path, headers, body = hostile(rng, part.digest, token)
            answer = transfers._client.request(method, path, headers=headers, content=body)
            hello = answer.url.path.rstrip("/") == "/hello" and method in ("GET", "HEAD")
            refused = 400 <= answer.status_code < 500
            assert hello or refused, (method, path, headers, answer)
    assert made.answers()
    assert process.memory_info().rss < before + GROWTH


def test_many_connections_that_say_nothing(running):
    made, process = running
    before = process.memory_info().rss
    held = [socket.create_connection(("127.0.0.1", made.port)) for _ in range(100)]
    shaken = [made.tls() for _ in range(100)]
    assert made.answers()
    assert process.memory_info().rss < before + 100_000_000
    for sock in [*held, *shaken]:
        sock.close()


def test_large_bodies_that_do_not_end(running):
    """Without a token: as many as may be in memory, and more."""
    made, process = running
    before = process.memory_info().rss
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"
    held = []
    for _ in range(40):
        held.append(made.tls())
        held[-1].settimeout(0.2)
        with suppress(OSError):
            held[-1].sendall(head + bytes(1_900_000))
    assert process.memory_info().rss < before + 150_000_000
    with made.tls() as tls:  # a small call goes on beside them
        tls.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert read_answer(tls)[0] == 503
    for tls in held:
        tls.close()
