"""A federation on this machine: a server and three devices as processes, with TLS and keys.

    python three_devices.py                             # or `make demo-network`
    python three_devices.py --set training.rounds=2     # what follows goes to `leff run`

Every command that it runs is printed as a person would type it.  All files go to a new folder in
`runs/`.  The servers listen on 127.0.0.1 alone, and end with the demo.
"""

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LEFF = Path(sys.executable).with_name("leff")
CONFIG = Path(__file__).with_name("demo.toml")
DEVICES = 3


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all processes end
    folder = Path("runs") / f"network-demo-{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True)
    port, link_port = free_ports(2)
    server, shards = folder / "server", folder / "shards"
    os.environ["LEFF_SERVER"] = str(server)
    with contextlib.ExitStack() as started:
        say("The server's owner makes a server, and starts it.")
        address = f"127.0.0.1:{port}"
        leff("server", "init", server, "--address", address, "--link-port", link_port)
        started.enter_context(running(folder / "server.log", "server", "start", server))
        wait_until(lambda: status().get("running"), "the server")
        say("For this trial, central data is divided into a file a device.")
        leff("server", "split", CONFIG, shards, "--devices", DEVICES)
        say("Each device makes a key, and its owner admits it.  Then it starts, and waits.")
        for number, data in enumerate(sorted(shards.glob("*.jsonl")), 1):
            home = folder / f"device-{number}"
            arguments = ("device", "join", server / "join.json", "--home", home)
            joined = json.loads(
                leff(*arguments, "--name", f"device-{number}", "--json", show=False)
            )
            leff(*shlex.split(joined["admit"])[1:])
            device = ("device", "start", "--home", home, "--data", data)
            started.enter_context(running(folder / f"device-{number}.log", *device))
        say("The server trains on the devices' data, which stays with them.")
        subprocess.run(show("run", CONFIG, "--out", folder / "run", *sys.argv[1:]), check=True)
        leff("server", "status")
        say("All processes end.")
    print(f"the run, the logs and the devices' folders are in {folder}")
    return 0


def say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def show(*arguments: object) -> list[str]:
    command = [str(LEFF), *map(str, arguments)]
    print("$ leff", shlex.join(command[1:]), flush=True)
    return command


def leff(*arguments: object, show: bool = True) -> str:
    """Run a command to its end and return what it prints."""
    command = [str(LEFF), *map(str, arguments)]
    print("$ leff", shlex.join(command[1:]), flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    if show:
        print(done.stdout, end="", flush=True)
    return done.stdout


@contextlib.contextmanager
def running(log: Path, *arguments: object):
    """Run a command in the background while the body runs."""
    print("$ leff", shlex.join(map(str, arguments)), "&", flush=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(LEFF), *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def status() -> dict:
    done = subprocess.run([str(LEFF), "server", "status", "--json"], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def wait_until(true, what: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            raise SystemExit(f"{what} is not ready after {seconds:.0f} s")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    sys.exit(main())
