"""A gateway that runs on loopback with TLS, and a forwarder that cuts connections."""

import http.client
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import torch

from leff.device.fetch import Transfers
from leff.network.certificates import (
    AUTHORITY,
    CERTIFICATE,
    CERTIFICATE_KEY,
    federation_id,
    make_authority,
    make_certificate,
)
from leff.network.gateway import listening, uvicorn_server
from leff.network.grants import Grant, Grants
from leff.network.settings import SETTINGS, GatewaySettings
from leff.wire.parts import PartStore

HOSTS = ["localhost", "127.0.0.1"]


class Gateway:
    """A gateway's folder, and what a driver and a device need of it."""

    def __init__(self, folder, superlink="http://127.0.0.1:1"):
        self.folder, self.authority = folder, folder / AUTHORITY
        make_authority(folder)
        make_certificate(folder, HOSTS)
        (folder / "secret").write_bytes(os.urandom(32))
        self.federation = federation_id(self.authority)
        self.grants = Grants(folder / "grants", (folder / "secret").read_bytes())
        self.parts = PartStore(folder / "parts")
        self.spool = folder / "spool"
        with listening("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        self.superlink, self.superlink_authority = superlink, None
        self.devices = itertools.count()

    @property
    def url(self):
        return f"https://localhost:{self.port}"

    @property
    def settings(self):
        return GatewaySettings(
            host="127.0.0.1",
            port=self.port,
            certificate=self.folder / CERTIFICATE,
            key=self.folder / CERTIFICATE_KEY,
            grants=self.folder / "grants",
            secret=self.folder / "secret",
            federation=self.federation,
            superlink=self.superlink,
            superlink_authority=self.superlink_authority,
            log=self.folder / "gateway.log",
        )

    def part(self, size_bytes=400, seed=0):
        """A stored part of random numbers."""
        numbers = torch.randn(size_bytes // 4, generator=torch.Generator().manual_seed(seed))
        return self.parts.put({"weight": numbers})

    def token(self, *parts, upload_bytes=10**6, seconds=60.0, device=None):
        """The token of a new grant, of a new device unless one is named."""
        sizes = {part.digest: part.size_bytes for part in parts}
        device = device or f"device-{next(self.devices)}"
        spool, expires = self.spool, time.time() + seconds
        return self.grants.issue(
            Grant(device, "job", sizes, self.parts.folder, upload_bytes, spool, expires)
        )

    def transfers(self, port=None, **options):
        """A device's connection that gives up soon."""
        url = f"https://localhost:{port or self.port}"
        options = {"patience_seconds": 2.0, "timeout_seconds": 10.0, **options}
        return Transfers(url, self.authority, **options)

    def answers(self):
        """Whether the gateway says who it is."""
        with self.transfers() as transfers:
            return transfers.hello().federation == self.federation

    def tls(self):
        """A raw TLS connection."""
        context = ssl.create_default_context(cafile=self.authority)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return context.wrap_socket(plain, server_hostname="localhost")

    @contextmanager
    def in_thread(self):
        """The gateway in a thread of this process."""
        server, sock = uvicorn_server(self.settings), listening("127.0.0.1", self.port)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join()

    def start(self):
        """The gateway as a process, once it answers."""
        values = {"gateway": self.settings.as_json()}
        (self.folder / SETTINGS).write_text(json.dumps(values))
        command = [sys.executable, "-m", "leff.network.gateway", str(self.folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                self.tls().close()
                return process
            except OSError:
                time.sleep(0.05)
        process.kill()
        raise AssertionError("the gateway did not start")


def read_answer(tls):
    """The status and the text of the next answer on a raw connection."""
    with http.client.HTTPResponse(tls) as answer:
        answer.begin()
        return answer.status, answer.read().decode()


class Forwarder:
    """Passes connections on to a port.

    The first ones end after `cuts` bytes from the server; each 16 KiB take `pause` seconds.
    """

    def __init__(self, port, cuts=(), pause=0.0):
        self.to, self.cuts, self.pause = port, list(cuts), pause
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.connections = 0
        self.passed = {True: 0, False: 0}  # bytes from the server, and to it

    def __enter__(self):
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()

    def _accept(self):
        threads = []
        while True:
            try:
                device, _ = self.sock.accept()
            except OSError:
                break
            self.connections += 1
            most = self.cuts.pop(0) if self.cuts else float("inf")
            threads.append(threading.Thread(target=self._serve, args=(device, most)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _serve(self, device, most):
        with device, suppress(OSError), socket.create_connection(("127.0.0.1", self.to)) as server:
            ways = (device, server, float("inf")), (server, device, most)
            threads = [threading.Thread(target=self._pass_on, args=way) for way in ways]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def _pass_on(self, source, target, most):
        passed = 0
        with suppress(OSError):
            while passed < most and (data := source.recv(2**14)):
                target.sendall(data)
                passed += len(data)
                self.passed[source.getpeername()[1] == self.to] += len(data)
                time.sleep(self.pause)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
