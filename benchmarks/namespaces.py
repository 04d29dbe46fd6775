"""A run over a network that is one: a server and three devices, each in a network namespace.

    .venv/bin/python -m benchmarks.namespaces            # as root; with iproute2 and nftables
    .venv/bin/python -m benchmarks.namespaces --width 512 --json

Each device has a link of its own to the server:

- ``slow``: 20 Mbit/s in both directions (`tc tbf`), as on a home line or a mobile network;
- ``lossy``: 1 % of all packets are lost in both directions (nftables `numgen`), as on bad Wi-Fi;
- ``nat``: a private address behind a router that hides it (nftables `masquerade`) and lets nothing
  in that was not asked for, as in most homes and offices.

All of them are 50 ms away: the round trip, by a TCP forwarder in front of the server
(`benchmarks.delay`).  A kernel with netem would delay packets, this one has none.  So a lost packet
is sent again within the namespace's own fast link, and a TCP handshake costs no round trip.

The built-in task runs to its end.  A row says how long a round took a device, from the ask to the
answer, after the first round, and what `leff plan --fleet` predicts for a fleet file with these
links.  With ``--width`` it is another model of four layers with random weights and of this width,
so that the link matters.  Namespaces, links and processes end with the benchmark, also if it is
interrupted.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.federation import LEFF, Federation, free_ports
from benchmarks.network import QUIET, random_model
from benchmarks.processes import spread
from leff.record import RoundRecord
from leff.runs.config import load_config
from leff.runs.split_files import write_shards

SERVER = "10.77.0.1"  # on the loopback of the server's namespace
DELAY_SECONDS = 0.025  # each way
RATE = "20mbit"
SLOW, FAST = "20Mbit/s", "1Gbit/s"  # in the fleet file; the other links are not limited
DEVICES = ("slow", "lossy", "nat")
LINE = re.compile(r"^(\S+ \S+),(\d+) INFO (training in round (\d+)|waiting)$", re.MULTILINE)


def missing() -> str:
    """Return why this machine cannot do it, or an empty text."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    programs = [name for name in ("ip", "tc", "nft") if shutil.which(name) is None]
    if programs:
        return f"{', '.join(programs)} missing: apt-get install iproute2 nftables"
    probe = subprocess.run(
        ["ip", "netns", "exec", "none", "true"], capture_output=True, check=False
    )
    if b"Operation not permitted" in probe.stderr:
        return "this container may not make network namespaces"
    return ""


def sh(line: str) -> None:
    """Run a command.  RuntimeError if it fails."""
    done = subprocess.run(line.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{line}: {done.stderr.strip()}")


def inside(name: str) -> list[str]:
    return ["ip", "netns", "exec", name]


class Namespaces:
    """Namespaces by short names; the real names have the process's id, so that two do not meet."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def add(self, name: str) -> str:
        full = f"leff{os.getpid()}-{name}"
        sh(f"ip netns add {full}")
        self.names.append(full)
        sh(f"ip -n {full} link set lo up")
        return full

    def link(self, one: str, other: str, net: str, place: str) -> None:
        """Join two namespaces: `one` has address 1 of `net` on to-PLACE, `other` 2 on wan."""
        sh(f"ip -n {one} link add to-{place} type veth peer name wan netns {other}")
        sh(f"ip -n {one} addr add {net}.1/24 dev to-{place}")
        sh(f"ip -n {other} addr add {net}.2/24 dev wan")
        sh(f"ip -n {one} link set to-{place} up")
        sh(f"ip -n {other} link set wan up")
        sh(f"ip -n {other} route add default via {net}.1")

    def rules(self, name: str, hook: str, kind: str, rule: str) -> None:
        """Add an nftables rule in a chain of its own."""
        start = f"ip netns exec {name} nft add"
        sh(f"{start} table ip leff")
        chain = f"{{ type {kind} hook {hook} priority 0 ; }}"
        sh(f"{start} chain ip leff {hook} {chain}")
        sh(f"{start} rule ip leff {hook} {rule}")

    def remove(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@contextlib.contextmanager
def network() -> Generator[dict[str, str]]:
    """Make the network, and give the namespaces of the server and the devices by name."""
    made = Namespaces()
    try:
        server = made.add("server")
        sh(f"ip -n {server} addr add {SERVER}/32 dev lo")
        slow, lossy, nat = (made.add(name) for name in DEVICES)
        router = made.add("router")
        made.link(server, slow, "10.77.1", "slow")
        for name, link in ((server, "to-slow"), (slow, "wan")):
            limit = f"tbf rate {RATE} burst 32kbit latency 400ms"
            sh(f"tc -n {name} qdisc add dev {link} root {limit}")
        made.link(server, lossy, "10.77.2", "lossy")
        for name, link in ((server, "to-lossy"), (lossy, "wan")):
            lost = f"iifname {link} numgen random mod 100 < 1 drop"
            made.rules(name, "prerouting", "filter", lost)
        made.link(server, router, "10.77.3", "router")
        made.link(router, nat, "192.168.77", "nat")
        sh(f"ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1")
        made.rules(router, "postrouting", "nat", "oifname wan masquerade")
        made.rules(
            router, "forward", "filter", "iifname wan ct state != {established,related} drop"
        )
        yield {"server": server, "slow": slow, "lossy": lossy, "nat": nat}
    finally:
        made.remove()


def measure(rounds: int, examples: int, width: int) -> dict[str, Any]:
    """Run a federation over the network; return rows by device, and the run's figures."""
    with tempfile.TemporaryDirectory() as name, network() as places:
        folder = Path(name)
        options: dict[str, Any] = {"training.rounds": rounds, "engine.quorum": len(DEVICES)}
        options |= {**QUIET, "evaluation.final_examples": 64, "evaluation.max_new_tokens": 64}
        model = str(random_model(folder / "model", 4, width, 800)) if width else "sample"
        options["model.name"] = model
        total = {"data.train_examples": examples * len(DEVICES), "clients.partition": "iid"}
        shards = write_shards(load_config(None, total), len(DEVICES), folder / "shards")
        (port,) = free_ports(1)
        there = Federation(folder, "127.0.0.1", f"{SERVER}:{port}", inside(places["server"]))
        with there as federation:
            to = (SERVER, port, "127.0.0.1", port, DELAY_SECONDS)
            forward = [sys.executable, "-m", "benchmarks.delay", *to]
            federation.start("delay", [*inside(places["server"]), *forward])
            federation.until("delay", "ready")
            for device, shard in zip(DEVICES, shards, strict=True):
                federation.device(device, [shard], inside=inside(places[device]))
            records, _ = federation.run(folder / "run", options)
            took = {device: round_seconds(federation.text(device)) for device in DEVICES}
        result = json.loads((folder / "run" / "result.json").read_text())
        planned = predicted(folder, model, examples)
    return {
        "devices": {
            device: _row(number, took[device], records, planned[device])
            for number, device in enumerate(DEVICES)
        },
        "rounds": rounds,
        "round_seconds": [record.seconds for record in records[1:]],
        "failures": result["failures"],
        "metric": {when: result[when]["metrics"] for when in ("before", "after")},
    }


def round_seconds(log: str) -> list[float]:
    """Return each round's seconds on a device, by its log: from the ask to the answer."""
    seconds, begun = [], None
    for moment, milliseconds, what, number in LINE.findall(log):
        at = datetime.fromisoformat(moment).timestamp() + int(milliseconds) / 1000
        if number:
            begun = at
        elif begun is not None and what == "waiting":
            seconds.append(at - begun)
            begun = None
    return seconds


def predicted(folder: Path, model: str, examples: int) -> dict[str, Any]:
    """Return what `leff plan --fleet` says of these devices.

    Their speed is what `leff profile` finds, by as many processes at once as there are devices.
    They share this machine's cores in the run too.
    """
    files = {device: folder / f"{device}.toml" for device in DEVICES}
    measure = [*LEFF, "profile", "--device", "cpu", "--repeats", "5"]
    measuring = [
        subprocess.Popen(
            [*measure, "--name", device, "--out", str(file)], stdout=subprocess.DEVNULL
        )
        for device, file in files.items()
    ]
    if any(each.wait() for each in measuring):
        raise RuntimeError("leff profile failed")
    lines: list[str] = []
    for device, file in files.items():
        link = SLOW if device == "slow" else FAST
        lines += [file.read_text(), f'down = "{link}"', f'up = "{link}"']
    fleet = folder / "fleet.toml"
    fleet.write_text("\n".join(lines))
    command = [*LEFF, "plan", model, "--fleet", str(fleet), "--method", "leff", "--layers", "1"]
    command += ["--examples", str(examples), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"leff plan failed: {done.stderr}")
    return json.loads(done.stdout)["classes"]


def _row(
    number: int, took: Sequence[float], records: Sequence[RoundRecord], planned: dict[str, Any]
) -> dict[str, Any]:
    own = [client for record in records[2:] for client in record.clients if client.client == number]
    seconds = took[1:]
    return {
        "round_seconds": statistics.median(seconds),
        "round_seconds_spread": spread(seconds),
        "train_seconds": statistics.median(client.train_seconds for client in own),
        "download_bytes": statistics.mean(client.download_bytes for client in own),
        "upload_bytes": statistics.mean(client.upload_bytes for client in own),
        "predicted": planned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--examples", type=int, default=160, help="of a device")
    parser.add_argument("--width", type=int, default=0, help="of a random model; 0: the built-in")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    reason = missing()
    if reason:
        print(json.dumps({"skipped": reason}) if given.json else f"skipped: {reason}")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is removed
    found = measure(given.rounds, given.examples, given.width)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(
        f"{'device':<7}{'s a round':>10}{'predicted':>10}{'training':>9}{'MB down':>8}{'MB up':>7}"
    )
    for device, row in found["devices"].items():
        down, up = row["download_bytes"] / 1e6, row["upload_bytes"] / 1e6
        print(
            f"{device:<7}{row['round_seconds']:>10.2f}{row['predicted']['round_seconds']:>10.2f}"
            f"{row['train_seconds']:>9.2f}{down:>8.2f}{up:>7.2f}"
        )


if __name__ == "__main__":
    main()
