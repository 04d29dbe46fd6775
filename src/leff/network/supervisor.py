"""`leff server start`: runs the server's processes, and starts again what ended.

    Supervisor(ServerFolder(path)).run()       # until SIGTERM or Ctrl-C

Two processes do the work, so that each may fail alone: Flower's SuperLink, on loopback, and the
gateway, which has the public port.  The supervisor also tells the SuperLink whom the owner
admitted.  Both processes end with the supervisor, even if that is killed.
"""

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from leff.errors import NetworkError
from leff.files import write_atomically, write_json
from leff.network import superlink
from leff.network.find import forget_running, note_running
from leff.network.folder import ServerFolder, ServerSettings
from leff.network.registry import Registry

CHECK_SECONDS = 0.2
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0  # seconds before a process that ended is started again
STEADY_SECONDS = 30.0  # after which a process that ends is started at once again
READY_SECONDS = 90.0
PR_SET_PDEATHSIG = 1
log = logging.getLogger("leff.network")


@dataclass
class _Process:
    name: str
    command: Sequence[str]
    host: str
    port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    since: float = 0.0
    wait: float = 0.0
    due: float = 0.0
    restarts: int = -1

    def start(self, folder: ServerFolder) -> None:
        with (folder.logs / f"{self.name}.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
            )
        self.since, self.restarts = time.monotonic(), self.restarts + 1

    def look(self, folder: ServerFolder) -> bool:
        """Start the process if it is not running and its time has come; return whether it did."""
        now = time.monotonic()
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return False
            steady = now - self.since > STEADY_SECONDS
            self.wait = FIRST_WAIT if steady else min(LONGEST_WAIT, 2 * self.wait or FIRST_WAIT)
            log.warning("%s ended with status %d; it starts again", self.name, status)
            self.process, self.due = None, now + self.wait
        if now < self.due:
            return False
        self.start(folder)
        return True

    @property
    def listening(self) -> bool:
        """Whether somebody answers on the process's port."""
        with suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False


class Supervisor:
    """The server's processes, from start to stop."""

    def __init__(self, folder: ServerFolder, settings: ServerSettings) -> None:
        self._folder, self._settings = folder, settings
        environment = superlink.environment(folder.path / "flower")
        self._processes = [
            _Process(
                "superlink",
                superlink.command(
                    settings.link_port,
                    folder.ca,
                    folder.certificate,
                    folder.key,
                    folder.database,
                    folder.link_secret,
                ),
                "127.0.0.1",
                settings.link_port,
                environment,
            ),
            _Process(
                "gateway",
                [sys.executable, "-m", "leff.network.gateway", str(folder.path)],
                {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host),
                settings.port,
                environment,
            ),
        ]
        self._stop = False
        self._seen: tuple[float, int] | None = None  # of devices.json, and the SuperLink's restarts

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until the process is asked to end; call `ready` once devices can come.

        Raises NetworkError if the folder's server runs already, or if a port is taken.
        """
        with self._folder.lock("server", wait=False):
            self._check_ports()
            before = {
                each: signal.signal(each, self._end) for each in (signal.SIGTERM, signal.SIGINT)
            }
            try:
                self._loop(ready)
            finally:
                for each, handler in before.items():
                    signal.signal(each, handler)
                self._end_all()

    def _end(self, *_: object) -> None:
        self._stop = True

    def _check_ports(self) -> None:
        ports = [
            (self._settings.host, self._settings.port),
            ("127.0.0.1", self._settings.link_port),
        ]
        for host, port in ports:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family) as test:
                test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    test.bind((host, port))
                except OSError as error:
                    raise NetworkError(
                        f"port {port} of {host} cannot be used ({error.strerror}); another program "
                        "may have it: end that, or make the server with other ports (leff server "
                        "init --help)"
                    ) from None

    def _loop(self, ready: Callable[[], None]) -> None:
        started, said = time.monotonic(), False
        while not self._stop:
            changed = [process for process in self._processes if process.look(self._folder)]
            if changed:
                self._write_state(said)
            up = all(process.listening for process in self._processes) if not said else True
            if up:
                try:
                    self._register()
                except OSError as error:  # such as a full disk: the processes must go on
                    log.warning("devices are registered later: %s", error)
            if not said and up:
                said = True
                self._write_state(said)
                note_running(self._folder)
                ready()
            elif not said and time.monotonic() - started > READY_SECONDS:
                raise NetworkError(
                    f"the server was not ready in {READY_SECONDS:.0f} s; see {self._folder.logs}"
                )
            time.sleep(CHECK_SECONDS)

    def _register(self) -> None:
        """Tell the SuperLink whom the owner admitted, if either has changed."""
        path = self._folder.path / "devices.json"
        changed = path.stat().st_mtime if path.exists() else 0.0
        now = changed, self._processes[0].restarts
        if now == self._seen:
            return
        admitted = {device.pem: device for device in Registry(path).devices()}
        try:
            address = f"127.0.0.1:{self._settings.link_port}"
            with superlink.Control(address, self._folder.ca.read_bytes()) as control:
                nodes = {key: node.id for key, node in control.nodes().items()}
                for key in admitted.keys() - nodes.keys():
                    nodes[key] = control.register(key)
                for key in nodes.keys() - admitted.keys():
                    control.unregister(nodes.pop(key))
        except superlink.LinkLostError as error:
            log.info("devices are registered later: %s", error)
            return
        known = {admitted[key].fingerprint: node for key, node in nodes.items()}
        write_json(self._folder.path / "nodes.json", {"nodes": known})
        self._seen = now

    def _write_state(self, ready: bool) -> None:
        state: dict[str, Any] = {
            "pid": os.getpid(),
            "ready": ready,
            "processes": {
                each.name: {
                    "pid": None if each.process is None else each.process.pid,
                    "restarts": max(each.restarts, 0),
                }
                for each in self._processes
            },
        }
        try:
            write_atomically(self._folder.state_file, json.dumps(state).encode())
        except OSError as error:
            log.warning("%s is not up to date: %s", self._folder.state_file, error)

    def _end_all(self) -> None:
        for each in reversed(self._processes):
            if each.process is not None and each.process.poll() is None:
                each.process.terminate()
        for each in self._processes:
            if each.process is not None:
                try:
                    each.process.wait(10)
                except subprocess.TimeoutExpired:
                    each.process.kill()
                    each.process.wait()
        forget_running(self._folder)
        self._folder.state_file.unlink(missing_ok=True)


def _end_with_parent() -> None:
    """Have the kernel kill this process when the supervisor ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
