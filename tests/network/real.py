"""A federation of real processes on this machine, for tests: a server, devices, runs.

    with RealServer(tmp_path) as server:
        server.device("a", data="a.jsonl")
        server.run(config, out)

Every process listens on 127.0.0.1 alone.  All are ended with the server, by their pids.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

LEFF = [sys.executable, "-m", "leff"]
READY_SECONDS = 90.0


def free_ports(count):
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Process:
    """A process whose output goes to a file."""

    def __init__(self, name, command, log, environment):
        self.name, self.command, self.log, self.environment = name, command, log, environment
        self.start()

    def start(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def children(self):
        """Return the processes below this one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def kill(self, signal_number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal_number)
        return self.process.wait(60)

    def end(self):
        """End the process and all below it."""
        below = self.children()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for each in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


class RealServer:
    """A server's folder and its processes, with devices that join it."""

    def __init__(self, folder, devices=()):
        self.folder, self.path = folder, folder / "server"
        self.port, self.link_port = free_ports(2)
        self.environment = {
            **os.environ,
            "LEFF_SERVER": str(self.path),
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.join_file = self.path / "join.json"
        self.processes, self.devices = [], {}
        self._names = devices

    def __enter__(self):
        address = f"127.0.0.1:{self.port}"
        self.leff("server", "init", self.path, "--address", address, "--link-port", self.link_port)
        self.server = self.start("server", "server", "start", self.path)
        self.until(lambda: "ready for devices" in self.server.text, "the server")
        for name, data in self._names:
            self.device(name, data)
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.end()

    def start(self, name, *arguments, environment=None):
        command = [*LEFF, *map(str, arguments)]
        environment = {**self.environment, **(environment or {})}
        process = Process(name, command, self.folder / f"{name}.log", environment)
        self.processes.append(process)
        return process

    def leff(self, *arguments, check=True):
        """Run a command to its end; return its standard output."""
        done = subprocess.run(
            [*LEFF, *map(str, arguments)], env=self.environment, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout if check else done

    def json(self, *arguments):
        return json.loads(self.leff(*arguments, "--json"))

    def join(self, name):
        """Join without the measurement, which would take seconds; return the device's home."""
        from leff.device.home import DeviceHome

        return DeviceHome.join(self.folder / name, self.join_file, "threads = 1\n")

    def device(self, name, data, admit=True, options=(), environment=None):
        """Join, admit and start a device."""
        home = self.join(name)
        if admit:
            self.leff("server", "admit", home.public_key, "--name", name)
        sets = [part for option in options for part in ("--set", option)]
        command = ["device", "start", "--home", home.path, "--data", data, *sets]
        started = self.start(name, *command, environment=environment)
        self.devices[name] = started
        return started

    def run(self, config, out, *more):
        """Start a run in the background."""
        return self.start(f"run-{out.name}", "run", config, "--out", out, *more)

    def until(self, true, what, seconds=READY_SECONDS):
        limit = time.monotonic() + seconds
        while not true():
            if time.monotonic() > limit:
                logs = "\n".join(f"--- {p.name}\n{p.text[-2000:]}" for p in self.processes)
                raise AssertionError(f"{what} did not happen in {seconds:.0f} s\n{logs}")
            time.sleep(0.1)

    def states(self):
        """Return each device's state by name, as the server sees it."""
        return {d["name"]: d["state"] for d in self.json("server", "status")["devices"]}


def rounds(folder):
    """Return how many rounds a run has recorded; -1 before the first measurement."""
    path = Path(folder) / "rounds.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else -1
