"""The gateway as a whole: its settings, its process, its bounds."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from gateways import Forwarder, Gateway, read_answer

from leff.device.cache import PartCache
from leff.errors import ConfigError
from leff.network import gateway as module
from leff.network.gateway import listening
from leff.network.settings import SETTINGS, read_settings


@pytest.fixture
def made(tmp_path):
    return Gateway(tmp_path)


def test_hello(gateway):
    with gateway.transfers() as transfers:
        hello = transfers.hello()
    assert (hello.flwr, hello.federation) == ("1.42.0", gateway.federation)
    assert abs(hello.time - time.time()) < 5


def test_settings_are_read_as_they_were_written(made):
    (made.folder / SETTINGS).write_text(json.dumps({"gateway": made.settings.as_json(), "x": 1}))
    assert read_settings(made.folder) == made.settings


def test_paths_of_settings_are_relative_to_the_folder(made):
    values = {**made.settings.as_json(), "secret": "secret", "log": None}
    (made.folder / SETTINGS).write_text(json.dumps({"gateway": values}))
    settings = read_settings(made.folder)
    assert (settings.secret, settings.log) == (made.folder / "secret", None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"port": 65536}, "port must be from 0 to 65535, got 65536"),
        ({"port": True}, "port must be"),
        ({"host": 5}, "host must be a text"),
        ({"other": 5}, "other"),
        ({"key": 5}, "no settings of a server"),
    ],
)
def test_settings_that_cannot_be(made, change, text):
    values = {**made.settings.as_json(), **change}
    (made.folder / SETTINGS).write_text(json.dumps({"gateway": values}))
    with pytest.raises(ConfigError, match=text):
        read_settings(made.folder)


NO_SETTINGS = ["", "{}", "[]", '{"gateway": {}}', '{"gateway": 5}', "[" * 10**5]


@pytest.mark.parametrize("content", NO_SETTINGS, ids=range(6))
def test_no_settings(tmp_path, content):
    (tmp_path / SETTINGS).write_text(content)
    with pytest.raises(ConfigError, match="run server init"):
        read_settings(tmp_path)


def start(folder):
    command = [sys.executable, "-m", "leff.network.gateway", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_port_that_is_taken(made):
    (made.folder / SETTINGS).write_text(json.dumps({"gateway": made.settings.as_json()}))
    with listening("127.0.0.1", made.port):
        ended = start(made.folder)
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1 port {made.port}: Address already in use" in ended.stderr


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
def test_a_host_that_is_not_here(host):
    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        listening(host, 0)


@pytest.mark.parametrize("name", ["server.crt", "server.key", "secret"])
def test_a_file_that_is_missing(made, name):
    (made.folder / name).unlink()
    with pytest.raises(ConfigError, match=name), made.in_thread():
        pass


def test_a_secret_that_is_too_short(made):
    (made.folder / "secret").write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, not 32"), made.in_thread():
        pass


def test_old_tls_is_refused(gateway):
    context = ssl.create_default_context(cafile=gateway.authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    plain = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
    with plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_head_that_is_too_large(gateway):
    with gateway.tls() as tls:
        tls.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 2 * module.HEAD_BYTES)
        assert read_answer(tls)[0] == 400
    assert gateway.answers()


def test_a_body_that_is_no_http(gateway, caplog):
    head = b"PUT /updates/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with gateway.tls() as tls:
        tls.sendall(head + b"ZZ\r\n")
        assert read_answer(tls) == (400, "Invalid HTTP request received.")
    assert gateway.answers()
    assert not any(record.exc_info for record in caplog.records)


def ends(tls):
    """Whether the other side closes the connection."""
    try:
        return tls.recv(2**16) == b""
    except OSError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /hel", b"GET /hello HTTP/1.1\r\nHost: a\r\n"])
def test_a_head_that_does_not_end(gateway, monkeypatch, sent):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    with gateway.tls() as tls:
        tls.sendall(sent)
        assert ends(tls)


def test_a_body_that_nobody_wants_does_not_hold_the_connection(gateway, monkeypatch):
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.1)
    with gateway.tls() as tls:
        tls.sendall(b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\nabc")
        assert read_answer(tls)[0] == 404
        assert ends(tls)


def test_an_answer_that_nobody_takes(gateway, monkeypatch):
    monkeypatch.setattr(module, "SEND_SECONDS", 0.2)
    part = gateway.part(40_000_000, seed=6)
    token = gateway.token(part, device="lazy")
    head = f"GET /parts/{part.digest} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
    with gateway.tls() as tls:
        tls.sendall(head.encode())
        time.sleep(1.0)
        received = 0
        with suppress(OSError):
            while data := tls.recv(2**20):
                received += len(data)
    assert 0 < received < part.size_bytes
    assert 0 < gateway.grants.traffic(token).download_bytes < part.size_bytes
    assert gateway.answers()


def test_connections_above_the_bound(gateway, monkeypatch):
    monkeypatch.setattr(module, "CONNECTIONS", 2)
    held = [gateway.tls() for _ in range(5)]
    monkeypatch.setattr(module, "IDLE_SECONDS", 30.0)
    for tls in held:
        tls.settimeout(0.3)
    assert sum(ends(tls) for tls in held) >= 3
    for tls in held:
        tls.close()
    assert gateway.answers()


@pytest.fixture
def throttled(made):
    """A gateway of its own process behind a slow link, and a connection to it."""
    process = made.start()
    processes = [process]
    with Forwarder(made.port, pause=0.0005) as link:
        with made.transfers(link.port, patience_seconds=30.0) as transfers:
            yield made, processes, transfers
        for process in processes:
            process.kill()
            process.wait()


def killed_and_started(made, processes):
    processes[-1].kill()
    processes[-1].wait()
    processes.append(made.start())


def test_killed_in_the_middle_of_a_download(throttled):
    """The device goes on where it was, with the gateway that is started in its place."""
    made, processes, transfers = throttled
    part = made.part(30_000_000)
    token, cache = made.token(part), PartCache(made.folder / "cache", 10**9)
    thread = threading.Thread(target=transfers.fetch, args=(part, token, cache))
    thread.start()
    while made.grants.traffic(token).download_bytes < 15_000_000:
        time.sleep(0.001)
    killed_and_started(made, processes)
    assert thread.is_alive()
    thread.join()
    assert cache.holds(part)
    assert made.grants.traffic(token).download_bytes < 1.5 * part.size_bytes  # twice from the start


def test_killed_in_the_middle_of_an_upload(throttled):
    made, processes, transfers = throttled
    part = made.part(20_000_000)
    path, token = made.parts.folder / part.digest, made.token(upload_bytes=10**8)
    thread = threading.Thread(target=transfers.upload, args=(path, part.digest, token))
    thread.start()
    while made.grants.traffic(token).upload_bytes < 5_000_000:
        time.sleep(0.001)
    killed_and_started(made, processes)
    assert thread.is_alive() and not (made.spool / part.digest).exists()
    thread.join()
    assert (made.spool / part.digest).read_bytes() == path.read_bytes()
    assert made.grants.traffic(token).uploads == 1


def test_ended_as_a_supervisor_does(made):
    process = made.start()
    with made.tls():  # a device that waits holds nothing up
        process.terminate()
        assert process.wait(timeout=5) is not None
    assert "error" not in (made.folder / "gateway.log").read_text().lower()
