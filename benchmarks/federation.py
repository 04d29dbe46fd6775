"""A federation of real processes, for benchmarks: a server, devices, runs.

    with Federation(Path("/tmp/fed")) as federation:
        federation.device("a", data=["a.jsonl"])
        records = federation.run(Path("/tmp/fed/run"), {"clients.count": 1})[0]

Every process listens on one address: loopback, or that of a namespace.  All end with the body, by
their ids.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leff.device.home import DeviceHome
from leff.network.folder import ServerFolder
from leff.network.registry import Registry
from leff.record import RoundRecord

LEFF = (sys.executable, "-m", "leff")
READY_SECONDS = 180.0
LOOK_SECONDS = 0.1


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that nobody listens on now."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((host, 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(true: Callable[[], Any], what: str, seconds: float = READY_SECONDS) -> None:
    """Return once something is true.  RuntimeError if it is not in time."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} did not happen in {seconds:.0f} s")
        time.sleep(LOOK_SECONDS)


def peak_bytes(process: int) -> int:
    """Return the largest resident set of a process so far (VmHWM); 0 if it is gone."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024
    return 0


class Processes:
    """Processes in the background, each with a log; they end with the body, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, dict[str, subprocess.Popen[bytes]]()
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(self, name: str, command: Iterable[object]) -> subprocess.Popen[bytes]:
        if name in self.started:
            raise RuntimeError(f"{name} runs already")
        with self.log(name).open("wb") as output:
            process = subprocess.Popen(
                [str(each) for each in command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started[name] = process
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def text(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def until(self, name: str, text: str) -> None:
        """Wait for a text in a process's log.  RuntimeError if the process ends before."""

        def seen() -> bool:
            if text in self.text(name):
                return True
            if self.started[name].poll() is not None:
                raise RuntimeError(f"{name} ended:\n{self.text(name)[-2000:]}")
            return False

        wait_until(seen, f"{text!r} of {name}")

    def end(self, name: str, seconds: float = 20.0) -> None:
        """Ask a process to end; kill it, with what it started, if it does not."""
        process = self.started.pop(name)
        if process.poll() is None:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        with contextlib.suppress(ProcessLookupError):  # it began a group of its own
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_all(self) -> None:
        for name in reversed(list(self.started)):
            self.end(name)


class Federation(Processes):
    """A server, its devices and its runs.

    `host` is where the server listens, `address` the name and port by which devices reach it, and
    `inside` goes before the server's commands, such as ``ip netns exec NAME``.
    """

    def __init__(
        self, folder: Path, host: str = "127.0.0.1", address: str = "", inside: Sequence[str] = ()
    ) -> None:
        super().__init__(folder)
        self.path, self.host, self.inside = folder / "server", host, inside
        port, self.link_port = free_ports(2)
        self.address = address or f"{host}:{port}"
        self.environment |= {
            "LEFF_SERVER": str(self.path),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def __enter__(self) -> "Federation":
        given = ("--address", self.address, "--listen", self.host, "--link-port", self.link_port)
        command = [*LEFF, "server", "init", self.path, *given]
        subprocess.run(
            [str(c) for c in command], env=self.environment, check=True, stdout=subprocess.DEVNULL
        )
        try:
            self.start("server", [*self.inside, *LEFF, "server", "start", self.path])
            self.until("server", "ready for devices")
        except BaseException:
            self.end_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()

    def join(self, name: str, settings: str = "threads = 1\n") -> DeviceHome:
        """Make a device's folder and admit its key; `settings` is its `device.toml`."""
        home = DeviceHome.join(self.folder / name, self.path / "join.json", settings)
        folder = ServerFolder(self.path)
        with folder.lock("devices"):
            Registry(folder.path / "devices.json").admit(home.public_key, name)
        return home

    def remove(self, name: str) -> None:
        """Take a device's admission back, so that no run asks it."""
        folder = ServerFolder(self.path)
        with folder.lock("devices"):
            registry = Registry(folder.path / "devices.json")
            (device,) = (each for each in registry.devices() if each.name == name)
            registry.remove(device.fingerprint)

    def device(
        self,
        name: str,
        data: Sequence[object],
        settings: str = "threads = 1\n",
        inside: Sequence[str] = (),
    ) -> None:
        """Start a device that trains; it joins first."""
        home = self.join(name, settings)
        files = [part for path in data for part in ("--data", path)]
        whole = ["--set", "data.validation_share=0"]  # hold nothing out
        command = [*inside, *LEFF, "device", "start", "--home", home.path, *files, *whole]
        self.start(name, command)

    def run(
        self, out: Path, options: Mapping[str, Any]
    ) -> tuple[list[RoundRecord], dict[str, int]]:
        """Run a configuration to its end; return its records, and each process's peak memory.

        RuntimeError if the run fails.
        """
        sets = [
            part for key, value in options.items() for part in ("--set", f"{key}={_toml(value)}")
        ]
        name = f"run-{out.name}"
        for process in self.server_processes().values():
            Path(f"/proc/{process}/clear_refs").write_text("5")  # begin a new peak
        run = self.start(
            name, [*self.inside, *LEFF, "run", "--engine", "flower", "--out", out, *sets]
        )
        peak = 0
        while run.poll() is None:
            peak = max(peak, peak_bytes(run.pid))
            time.sleep(LOOK_SECONDS)
        peaks = {each: peak_bytes(process) for each, process in self.server_processes().items()}
        self.end(name)
        if run.returncode:
            logs = "\n".join(
                f"--- {each}\n{self.text(each)[-1500:]}" for each in (*self.started, name)
            )
            raise RuntimeError(f"the run in {out} failed\n{logs}")
        lines = (out / "rounds.jsonl").read_text().splitlines()
        return [RoundRecord.from_dict(json.loads(line)) for line in lines], {"run": peak, **peaks}

    def server_processes(self) -> dict[str, int]:
        """Return the ids of the gateway and of the SuperLink."""
        state = ServerFolder(self.path).running() or {"processes": {}}
        return {name: each["pid"] for name, each in state["processes"].items()}


def _toml(value: Any) -> str:
    return json.dumps(value if not isinstance(value, Path) else str(value))
