"""The part store behind the real gateway: what is sent, what is taken in, what is refused."""

import errno
import hashlib
import os
import threading
import time

import httpx
import pytest
from gateways import read_answer

from leff.network import store
from leff.network.grants import Traffic

DIGEST = "0" * 64


@pytest.fixture
def device(gateway):
    """An HTTP client of a device, and nothing of ours."""
    with gateway.transfers() as transfers:
        yield transfers._client


def bearer(token, **headers):
    return {"Authorization": f"Bearer {token}", **headers}


def content(gateway, part):
    return (gateway.parts.folder / part.digest).read_bytes()


def test_a_whole_part(gateway, device):
    part = gateway.part(10**6)
    token = gateway.token(part)
    answer = device.get(f"/parts/{part.digest}", headers=bearer(token))
    assert answer.status_code == 200 and answer.content == content(gateway, part)
    assert answer.headers["etag"] == f'"{part.digest}"'
    assert "immutable" in answer.headers["cache-control"] and "server" not in answer.headers
    assert gateway.grants.traffic(token) == Traffic(part.size_bytes, 0, 0)


def test_only_the_head(gateway, device):
    part = gateway.part()
    token = gateway.token(part)
    answer = device.head(f"/parts/{part.digest}", headers=bearer(token))
    assert answer.headers["content-length"] == str(part.size_bytes) and answer.content == b""
    assert gateway.grants.traffic(token) == Traffic()


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-", 0, None),
        ("bytes=100-", 100, None),
        ("bytes=0-0", 0, 1),
        ("bytes=5-99999999", 5, None),
        # ignored, as RFC 9110 allows
        ("bytes=9-3", 0, None),
        ("bytes=-5", 0, None),
        ("bytes=0-1,5-6", 0, None),
        ("bytes=0-1-2", 0, None),
        ("bytes=" + "0-," * 4000, 0, None),
        ("bytes=1e3-", 0, None),
        ("bytes=" + "9" * 5000 + "-", 0, None),
        ("lines=5-", 0, None),
        ("", 0, None),
    ],
)
def test_ranges(gateway, device, asked, first, end):
    part = gateway.part()
    token = gateway.token(part)
    answer = device.get(f"/parts/{part.digest}", headers=bearer(token, Range=asked))
    wanted = content(gateway, part)[first:end]
    assert answer.content == wanted
    assert answer.status_code == (200 if len(wanted) == part.size_bytes else 206)
    if answer.status_code == 206:
        last = first + len(wanted) - 1
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{part.size_bytes}"
    assert gateway.grants.traffic(token).download_bytes == len(wanted)


def test_a_range_behind_the_end(gateway, device):
    part = gateway.part()
    headers = bearer(gateway.token(part), Range=f"bytes={part.size_bytes}-")
    answer = device.get(f"/parts/{part.digest}", headers=headers)
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{part.size_bytes}"


def test_a_range_of_another_content(gateway, device):
    part = gateway.part()
    headers = bearer(gateway.token(part), Range="bytes=9-")
    for tag, status in ((f'"{part.digest}"', 206), ('"x"', 200)):
        answer = device.get(f"/parts/{part.digest}", headers={**headers, "If-Range": tag})
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "a token is needed"),
        ({"Authorization": "Basic YTpi"}, "a token is needed"),
        ({"Authorization": "Bearer"}, "malformed"),
        ({"Authorization": "Bearer x.y"}, "malformed"),
        ({"Authorization": "Bearer " + "0" * 12 + "-" + "0" * 32 + "." + "0" * 64}, "not issued"),
    ],
    ids=["none", "basic", "empty", "malformed", "forged"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_without_a_good_token(gateway, device, headers, text, method):
    path = f"/{'updates' if method == 'PUT' else 'parts'}/{gateway.part().digest}"
    answer = device.request(
        method, path, headers=headers, content=b"x" if method == "PUT" else None
    )
    assert answer.status_code == 401
    assert method == "HEAD" or text in answer.text


@pytest.mark.parametrize(("seconds", "text"), [(-1.0, "has expired"), (60.0, "was revoked")])
def test_a_token_that_was_good(gateway, device, seconds, text):
    part = gateway.part()
    token = gateway.token(part, seconds=seconds)
    gateway.grants.revoke(token)
    for method, path in (("GET", "parts"), ("PUT", "updates")):
        answer = device.request(method, f"/{path}/{part.digest}", headers=bearer(token))
        assert answer.status_code == 401 and text in answer.text


def test_a_part_of_another_job(gateway, device):
    mine, other = gateway.part(400, seed=1), gateway.part(400, seed=2)
    answer = device.get(f"/parts/{other.digest}", headers=bearer(gateway.token(mine)))
    assert answer.status_code == 403 and "not for this part" in answer.text


def test_a_part_that_is_gone_or_cut(gateway, device):
    part = gateway.part(400, seed=3)
    token, path = gateway.token(part), gateway.parts.folder / part.digest
    for change in (lambda: path.write_bytes(b"x"), path.unlink, path.mkdir):
        change()
        answer = device.get(f"/parts/{part.digest}", headers=bearer(token))
        assert answer.status_code == 404 and "no longer on the server" in answer.text
    path.rmdir()


TRICKS = [
    "/parts/../secret",
    "/parts/..%2fsecret",
    "/parts/%2e%2e/secret",
    "/parts/%2e%2e%2fca.key",
    "/parts//{digest}",
    "/parts/{digest}/",
    "/parts/{digest}%00",
    "/parts/{digest}%0a",
    "/parts/./{digest}",
    "/parts/{upper}",
    "/PARTS/{digest}",
    "/parts/",
    "/parts/{digest}.new",
    "/updates/{digest}",
    "//parts/{digest}",
    "/parts\\..\\secret",
]


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_tricks_with_paths(gateway, path, method):
    """As raw bytes: a client's library would mend the path."""
    part = gateway.part(400, seed=11)
    assert part.digest != part.digest.upper()
    path = path.format(digest=part.digest, upper=part.digest.upper())
    if (method, path) == ("PUT", f"/updates/{part.digest}"):
        path = f"/updates/..%2f{part.digest}"
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n"
    with gateway.tls() as tls:
        tls.sendall(f"{head}Authorization: Bearer {gateway.token(part)}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(2**16), b""))
    assert answer.split()[1] in (b"403", b"404", b"405")
    assert content(gateway, part) not in answer
    assert (gateway.folder / "secret").read_bytes() not in answer


def put(device, token, payload, digest=None, **headers):
    digest = digest or hashlib.sha256(payload).hexdigest()
    return device.put(f"/updates/{digest}", content=payload, headers=bearer(token, **headers))


@pytest.fixture
def payload():
    return os.urandom(700_000)


def left_in(gateway):
    return sorted(path.name for path in gateway.spool.iterdir() if path.name.startswith("."))


def test_an_update_arrives(gateway, device, payload):
    token, digest = gateway.token(), hashlib.sha256(payload).hexdigest()
    for _ in range(2):  # the second time it is there already
        answer = put(device, token, payload)
        assert answer.status_code == 200 and answer.json() == {"bytes": len(payload)}
        assert gateway.grants.traffic(token) == Traffic(0, len(payload), 1)
    assert (gateway.spool / digest).read_bytes() == payload
    assert left_in(gateway) == []


def test_an_update_with_another_digest(gateway, device, payload):
    token = gateway.token()
    answer = put(device, token, payload, DIGEST)
    assert answer.status_code == 400 and "another SHA-256" in answer.text
    assert gateway.grants.traffic(token) == Traffic(0, len(payload), 0)
    assert not (gateway.spool / DIGEST).exists() and left_in(gateway) == []


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "0" * 65, "ü" * 64])
def test_an_update_with_no_digest_for_a_name(gateway, device, name):
    answer = put(device, gateway.token(), b"x", name)
    assert answer.status_code == 404 and "64 lowercase" in answer.text


@pytest.mark.parametrize("most", [0, 100])
def test_too_large_an_update_is_refused_before_it_is_read(gateway, most):
    token = gateway.token(upload_bytes=most)
    head = f"PUT /updates/{DIGEST} HTTP/1.1\r\nHost: a\r\nContent-Length: {most + 1}\r\n"
    with gateway.tls() as tls:
        tls.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
        status, text = read_answer(tls)
    assert status == 413 and f"at most {most} bytes, not {most + 1}" in text


def test_an_empty_update(gateway, device):
    answer = put(device, gateway.token(upload_bytes=0), b"")
    assert answer.status_code == 400 and "is empty" in answer.text


def test_the_client_of_a_refused_upload_reads_the_refusal(gateway, device):
    answer = put(device, gateway.token(upload_bytes=100), bytes(5_000_000))
    assert answer.status_code == 413
    assert gateway.answers()


@pytest.mark.parametrize("header", [b"Transfer-Encoding: chunked", b"X: y"])
def test_the_length_is_needed(gateway, header):
    token = gateway.token().encode()
    with gateway.tls() as tls:
        tls.sendall(b"PUT /updates/%s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (DIGEST.encode(), header))
        tls.sendall(b"Authorization: Bearer %s\r\n\r\n" % token)
        assert read_answer(tls) == (411, "Content-Length is needed")


def test_so_many_updates_a_job(gateway, device):
    token = gateway.token()
    found = [put(device, token, bytes([n]) * 10).status_code for n in (1, 2, 3, 4, 1)]
    assert found == [200, 200, 200, 409, 200]


def test_a_full_disk(gateway, device, payload, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    token = gateway.token()
    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", full)
        answer = put(device, token, payload)
    assert answer.status_code == 507 and "disk is full" in answer.text
    assert left_in(gateway) == []
    assert put(device, gateway.token(), payload).status_code == 200


def test_a_fault_inside_says_nothing_outside(gateway, device, payload, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "a secret path")

    token = gateway.token()
    monkeypatch.setattr(store.os, "fsync", broken)
    answer = put(device, token, payload)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert left_in(gateway) == []


def half_sent(gateway, token, payload):
    """A connection on which half of an update was sent."""
    digest = hashlib.sha256(payload).hexdigest()
    head = f"PUT /updates/{digest} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(payload)}\r\n"
    tls = gateway.tls()
    tls.sendall(f"{head}Authorization: Bearer {token}\r\n\r\n".encode())
    tls.sendall(payload[: len(payload) // 2])
    return tls


def soon(condition):
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_an_upload_that_is_cut_leaves_nothing(gateway, payload):
    token = gateway.token()
    tls = half_sent(gateway, token, payload)
    assert soon(lambda: left_in(gateway))
    tls.close()
    assert soon(lambda: left_in(gateway) == [])
    # what was still on its way is lost with the connection
    assert 0 < gateway.grants.traffic(token).upload_bytes <= len(payload) // 2


def test_an_upload_that_stops_is_ended(gateway, payload, monkeypatch):
    monkeypatch.setattr(store, "RECEIVE_SECONDS", 0.2)
    with half_sent(gateway, gateway.token(), payload) as tls:
        assert read_answer(tls) == (408, "too little arrived in 0.2 s")
    assert left_in(gateway) == []


def test_so_many_transfers_a_device(gateway, device, payload):
    tokens = [gateway.token(device="one") for _ in range(store.TRANSFERS)]
    open_ones = [half_sent(gateway, token, payload) for token in tokens]
    assert soon(lambda: len(left_in(gateway)) == store.TRANSFERS)
    answer = put(device, gateway.token(device="one"), b"x")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
    assert put(device, gateway.token(device="another"), b"x").status_code == 200
    for tls in open_ones:
        tls.close()
    assert soon(lambda: put(device, gateway.token(device="one"), b"y").status_code == 200)


def test_revoked_in_the_middle(gateway, device):
    part = gateway.part(40_000_000, seed=4)
    token = gateway.token(part)
    with device.stream("GET", f"/parts/{part.digest}", headers=bearer(token)) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        gateway.grants.revoke(token)
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in pieces:
                pass
    assert gateway.answers()


def test_eight_devices_at_once(gateway):
    part = gateway.part(3_000_000, seed=5)
    tokens = [gateway.token(part) for _ in range(8)]
    found = []

    def work(token):
        with gateway.transfers() as transfers:
            answer = transfers._client.get(f"/parts/{part.digest}", headers=bearer(token))
            found.append(answer.content == content(gateway, part))

    threads = [threading.Thread(target=work, args=(token,)) for token in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert {gateway.grants.traffic(t).download_bytes for t in tokens} == {part.size_bytes}
