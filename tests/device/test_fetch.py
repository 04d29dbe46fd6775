"""A device's transfers with the real gateway, over links that break and servers that lie."""

import errno
import hashlib
import logging
import socket
import threading
from datetime import timedelta

import httpx
import pytest
import torch
from gateways import Forwarder, Gateway

from leff.device.cache import PartCache
from leff.device.fetch import TEXT_BYTES, Transfers, client_fetch
from leff.errors import ConfigError, NetworkError, RefusedError, RunError
from leff.network import certificates
from leff.network.certificates import make_authority, make_certificate
from leff.network.grants import Traffic
from leff.wire.messages import Part

DIGEST = "0" * 64


@pytest.fixture
def cache(tmp_path):
    return PartCache(tmp_path / "cache", 10**9)


@pytest.fixture
def transfers(gateway):
    with gateway.transfers() as running:
        yield running


def test_a_client_gets_its_parts_once(gateway, transfers, cache):
    part = gateway.part()
    token = gateway.token(part)
    for _ in range(2):
        again = PartCache(cache.folder, cache.most_bytes)
        tensors = client_fetch(again, transfers, token)(part)
        assert torch.equal(tensors["weight"], gateway.parts.get(part)["weight"])
    assert gateway.grants.traffic(token) == Traffic(part.size_bytes, 0, 0)


def test_a_corrupt_entry_is_fetched_again(gateway, transfers, cache):
    part = gateway.part()
    token = gateway.token(part)
    cache.path(part).write_bytes(bytes(part.size_bytes))
    assert torch.equal(
        client_fetch(cache, transfers, token)(part)["weight"], gateway.parts.get(part)["weight"]
    )
    assert gateway.grants.traffic(token).download_bytes == part.size_bytes


def test_a_download_that_is_cut_goes_on_where_it_ended(gateway, cache):
    part = gateway.part(3_000_000, seed=7)
    token = gateway.token(part)
    with (
        Forwarder(gateway.port, cuts=[10, 1_000_000, 700_000, 5_000]) as link,
        gateway.transfers(link.port, patience_seconds=20.0) as transfers,
    ):
        transfers.fetch(part, token, cache)
        assert link.connections == 5
    assert cache.holds(part)
    assert link.passed[True] < part.size_bytes + 100_000  # for TLS, HTTP, and what a cut took
    assert gateway.grants.traffic(token).download_bytes >= part.size_bytes


def test_a_download_goes_on_after_the_device_was_killed(gateway, transfers, cache):
    part = gateway.part(3_000_000, seed=8)
    token = gateway.token(part)
    content = (gateway.parts.folder / part.digest).read_bytes()
    cache.unfinished(part).write_bytes(content[:2_900_000])
    transfers.fetch(part, token, PartCache(cache.folder, cache.most_bytes))
    assert gateway.grants.traffic(token).download_bytes == part.size_bytes - 2_900_000
    cache.path(part).rename(cache.unfinished(part))
    transfers.fetch(part, token, cache)  # complete, and only not yet checked
    assert gateway.grants.traffic(token).download_bytes == part.size_bytes - 2_900_000


def test_a_wrong_start_is_thrown_away(gateway, transfers, cache):
    part = gateway.part()
    cache.unfinished(part).write_bytes(bytes(part.size_bytes - 1))
    transfers.fetch(part, gateway.token(part), cache)
    assert cache.holds(part)


def test_an_upload_that_is_cut_is_sent_again(gateway, tmp_path):
    content = torch.randn(500_000).numpy().tobytes()
    (tmp_path / "update").write_bytes(content)
    digest, token = hashlib.sha256(content).hexdigest(), gateway.token(upload_bytes=len(content))
    with (
        Forwarder(gateway.port, cuts=[10, 1000]) as link,
        gateway.transfers(link.port, patience_seconds=20.0) as transfers,
    ):
        transfers.upload(tmp_path / "update", digest, token)
        assert link.connections == 3
    assert (gateway.spool / digest).read_bytes() == content
    assert gateway.grants.traffic(token).uploads == 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda gateway, token: token[:-1] + "x", "401: the token is malformed"),
        (lambda gateway, token: gateway.token(seconds=-1), "401: the token has expired"),
        (lambda gateway, token: gateway.token(), "403: the token is not for this part"),
    ],
)
def test_refused(gateway, transfers, cache, change, text):
    part = gateway.part()
    with pytest.raises(RefusedError, match=text):
        transfers.fetch(part, change(gateway, gateway.token(part)), cache)
    assert not cache.holds(part)


def test_refused_uploads(gateway, transfers, tmp_path):
    (tmp_path / "update").write_bytes(b"content")
    with pytest.raises(RefusedError, match="400: the update's bytes have another SHA-256"):
        transfers.upload(tmp_path / "update", DIGEST, gateway.token())
    with pytest.raises(RefusedError, match="413: this job's update may have at most 6 bytes"):
        transfers.upload(tmp_path / "update", DIGEST, gateway.token(upload_bytes=6))


def test_a_server_that_is_full(gateway, transfers, tmp_path, monkeypatch):
    (tmp_path / "update").write_bytes(b"content")
    token = gateway.token()

    def full(_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr("leff.network.store.os.fsync", full)
    transfers.patience_seconds = 0.3
    digest = hashlib.sha256(b"content").hexdigest()
    with pytest.raises(NetworkError, match=r"507: the server's disk is full.*\(given up\)"):
        transfers.upload(tmp_path / "update", digest, token)


def test_a_part_that_is_corrupt_on_the_server(gateway, transfers, cache):
    part = gateway.part(400, seed=12)
    path = gateway.parts.folder / part.digest
    path.write_bytes(bytes(part.size_bytes))
    token = gateway.token(part)
    with pytest.raises(NetworkError, match=f"part {part.digest} arrived with another digest"):
        transfers.fetch(part, token, cache)
    assert list(cache.folder.iterdir()) == []
    assert gateway.grants.traffic(token).download_bytes == 3 * part.size_bytes
    path.unlink()


class Full:
    """A file on a full disk."""

    def __init__(self, times):
        self.times = times

    def __call__(self, *_):
        self.times -= 1
        if self.times >= 0:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("times", [1, 2])
def test_a_full_disk(gateway, transfers, cache, monkeypatch, times):
    """Once: what the job does not need is removed.  Again: it is an error, and nothing is left."""
    part, old = gateway.part(400, seed=1), gateway.part(400, seed=2)
    token = gateway.token(part, old)
    transfers.fetch(old, token, cache)
    cache.keep([part])
    full, download = Full(times), transfers._download
    monkeypatch.setattr(transfers, "_download", lambda *a: (full(), download(*a)))
    if times == 1:
        transfers.fetch(part, token, cache)
    else:
        with pytest.raises(RunError, match=rf"the disk of .* is full: part {part.digest} has"):
            transfers.fetch(part, token, cache)
    assert cache.holds(part) == (times == 1) and not cache.holds(old)


class Pieces(httpx.SyncByteStream):
    def __init__(self, pieces):
        self.pieces = pieces

    def __iter__(self):
        yield from self.pieces


def lying(*answers):
    """Transfers with a server that gives these answers in turn: status, pieces, headers."""
    found = Transfers.__new__(Transfers)
    found.url, found.patience_seconds = "https://a", 0.6
    left = iter(answers)

    def answer(_):
        status, pieces, *headers = next(left)
        return httpx.Response(status, headers=dict(*headers), stream=Pieces(pieces))

    found._client = httpx.Client(base_url="https://a", transport=httpx.MockTransport(answer))
    return found


def endless(piece, taken):
    while True:
        taken.append(len(piece))
        yield piece


def test_more_than_was_said_is_not_kept(gateway, cache):
    part = gateway.part()
    taken = []
    with pytest.raises(NetworkError, match="more arrived than part"):
        lying((200, endless(bytes(100), taken))).fetch(part, "token", cache)
    assert sum(taken) <= part.size_bytes + 200
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= part.size_bytes


@pytest.mark.parametrize("header", ["bytes 0-399/400", "bytes 10-399/400", "nonsense", ""])
def test_a_range_that_was_not_asked_for(gateway, cache, header):
    """The whole content arrives, whatever the header says; then the file starts anew."""
    part = gateway.part()
    content = (gateway.parts.folder / part.digest).read_bytes()
    cache.unfinished(part).write_bytes(content[:100])
    lying((206, [content], {"Content-Range": header})).fetch(part, "token", cache)
    assert cache.holds(part)


def test_a_long_text_of_an_error_is_cut(cache):
    taken = []
    with pytest.raises(RefusedError) as caught:
        lying((418, endless(b"\x1b[2Jx\n" * 10, taken))).fetch(Part(DIGEST, 5), "token", cache)
    assert sum(taken) <= TEXT_BYTES + 100
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "said", [b"", b"{}", b"[]", b"5", b"<html>", b'{"leff": 1}', b"[" * TEXT_BYTES, b"\xff"]
)
def test_what_is_no_server_of_ours(said):
    with pytest.raises(NetworkError, match="is no server of LEFF"):
        lying((200, [said])).hello()


def test_a_redirect_is_not_followed():
    with pytest.raises(RefusedError, match="answered 307"):
        lying((307, [], {"Location": "https://b/hello"})).hello()


def test_tried_again_later(gateway, cache, caplog):
    part = gateway.part()
    content = (gateway.parts.folder / part.digest).read_bytes()
    with caplog.at_level(logging.INFO, "leff.device"):
        lying((503, [b"busy"]), (200, [content])).fetch(part, "token", cache)
    assert cache.holds(part)
    assert "answered 503: busy; next try in" in caplog.text


def hello_of(url, authority):
    with Transfers(url, authority, timeout_seconds=5.0) as transfers:
        return transfers.hello()


def test_an_unknown_host(gateway, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(NetworkError, match="the host is unknown"):
        hello_of("https://no.such.host", gateway.authority)


def test_a_refused_connection(gateway):
    with pytest.raises(NetworkError, match="the connection is refused"):
        hello_of("https://localhost:1", gateway.authority)


def test_a_foreign_authority(gateway, tmp_path):
    make_authority(tmp_path)
    with pytest.raises(NetworkError, match="certificate is of another federation"):
        hello_of(gateway.url, tmp_path / "ca.crt")


def test_a_certificate_of_another_host(tmp_path):
    made = Gateway(tmp_path)
    make_certificate(tmp_path, ["fl.example"])
    with made.in_thread(), pytest.raises(NetworkError, match="is for another host"):
        hello_of(made.url, made.authority)


@pytest.mark.parametrize(("days", "text"), [(-1, "has expired; renew it"), (9, "not valid yet")])
def test_a_certificate_out_of_its_time(tmp_path, monkeypatch, days, text):
    made = Gateway(tmp_path)
    if days > 0:
        monkeypatch.setattr(certificates, "EARLIER", timedelta(days=-1))
    make_certificate(tmp_path, ["localhost"], days=days)
    with made.in_thread(), pytest.raises(NetworkError, match=text):
        hello_of(made.url, made.authority)


def test_a_port_without_tls(gateway):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(2**14)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NetworkError, match="does not speak TLS"):
            hello_of(f"https://localhost:{server.getsockname()[1]}", gateway.authority)
        thread.join()


def test_a_server_that_says_nothing(gateway):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Transfers(
            f"https://localhost:{server.getsockname()[1]}", gateway.authority, timeout_seconds=0.1
        ) as transfers,
        pytest.raises(NetworkError, match="did not answer in time"),
    ):
        transfers.hello()


@pytest.mark.parametrize("url", ["http://a", "a", "", "https:/", "https://a:b", "ftp://a"])
def test_an_address_that_is_none(gateway, url):
    with pytest.raises(ConfigError, match="a server's address must be as https://"):
        Transfers(url, gateway.authority)


def test_an_authority_that_is_none(tmp_path):
    (tmp_path / "ca.crt").write_text("nothing")
    for name in ("ca.crt", "missing"):
        with pytest.raises(ConfigError, match="join the federation again"):
            Transfers("https://a", tmp_path / name)


def test_proxies_of_the_environment_are_ignored(gateway, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nothing")
    assert gateway.answers()
    with gateway.transfers(use_proxies=True) as transfers, pytest.raises(NetworkError):
        transfers.hello()
