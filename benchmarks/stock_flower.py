"""Seconds of a tiny round on stock Flower, on this machine: TLS, node keys, a process each.

    rounds = stock_rounds(Path("/tmp/stock"), nodes=3, rounds=11)

`flower-superlink` runs with its own SuperExec, and each node is a `flower-supernode`.  The app is
`APP`: a node adds up some products with numpy, and sends back 10,000 bytes.  No torch is imported,
and nothing of LEFF.
"""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.federation import Processes, free_ports, wait_until
from leff.network import certificates, superlink

BIN = Path(sys.executable).parent
SECONDS = 600.0  # for all rounds
APP = {
    "pyproject.toml": """[project]
name = "stockapp"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "stockapp"
[tool.flwr.app.components]
serverapp = "stockapp.server:app"
clientapp = "stockapp.client:app"
[tool.flwr.app.config]
rounds = 1
nodes = 1
out = ""
""",
    "stockapp/__init__.py": "",
    "stockapp/client.py": """import time
import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    started = time.perf_counter()
    weights = np.random.default_rng(0).standard_normal((64, 64))
    for _ in range(20):
        weights -= 1e-3 * (weights @ weights.T @ weights)
    seconds = time.perf_counter() - started
    record = ConfigRecord({"seconds": seconds, "payload": weights.tobytes()[:10_000]})
    return Message(RecordDict({"update": record}), reply_to=message)
""",
    "stockapp/server.py": """import json, os, time
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    given, rounds = context.run_config, []
    while len(list(grid.get_node_ids())) < given["nodes"]:
        time.sleep(0.1)
    nodes = list(grid.get_node_ids())
    for number in range(given["rounds"]):
        started = time.perf_counter()
        record = RecordDict({"job": ConfigRecord({"round": number})})
        messages = [Message(record, node, "train", group_id=str(number)) for node in nodes]
        replies = list(grid.send_and_receive(messages))
        seconds = time.perf_counter() - started
        training = max(reply.content["update"]["seconds"] for reply in replies)
        rounds.append({"seconds": seconds, "training": training, "replies": len(replies)})
        with open(given["out"] + ".new", "w") as file:
            json.dump(rounds, file)
        os.replace(given["out"] + ".new", given["out"])
""",
}


def stock_rounds(folder: Path, nodes: int, rounds: int) -> list[float]:
    """Return each round's seconds, less the longest training of a node.

    RuntimeError if Flower fails, or is not done in `SECONDS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificates.make_authority(folder)
    certificates.make_certificate(folder, ["127.0.0.1", "localhost"])
    ca = folder / certificates.AUTHORITY
    for name, text in APP.items():
        path = folder / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    processes = Processes(folder)
    processes.environment |= superlink.environment(folder / "flower")
    processes.environment["PATH"] = f"{BIN}:{processes.environment['PATH']}"
    address = f"127.0.0.1:{free_ports(1)[0]}"
    home = Path(processes.environment["FLWR_HOME"])
    home.mkdir()
    settings = f'[superlink]\n[superlink.here]\naddress = "{address}"\nroot-certificates = "{ca}"\n'
    (home / "config.toml").write_text(settings)
    try:
        _start(processes, folder, address, nodes)
        out = folder / "rounds.json"
        options = f'rounds={rounds} nodes={nodes} out="{out}"'
        _flwr(processes, "run", folder / "app", "here", "--run-config", options)
        found: list[dict[str, float]] = []

        def done() -> bool:
            found[:] = json.loads(out.read_text()) if out.exists() else []
            return len(found) == rounds

        wait_until(done, f"{rounds} rounds of stock Flower", SECONDS)
    finally:
        processes.end_all()
    if any(each["replies"] != nodes for each in found):
        raise RuntimeError(f"not every node of stock Flower answered: {found}")
    return [each["seconds"] - each["training"] for each in found]


def _start(processes: Processes, folder: Path, address: str, nodes: int) -> None:
    """Start the SuperLink and the nodes, whose keys it knows."""
    ca, host, port = folder / certificates.AUTHORITY, *address.split(":")
    command = [BIN / "flower-superlink", "--host", host, "--port", port]
    command += ["--ssl-ca-certfile", ca, "--ssl-certfile", folder / certificates.CERTIFICATE]
    command += ["--ssl-keyfile", folder / certificates.CERTIFICATE_KEY]
    command += ["--enable-supernode-auth", "--database", folder / "link.db"]
    processes.start("superlink", [*command, "--disable-runtime-dependency-installation"])
    for number, own in enumerate(free_ports(nodes)):
        key = folder / f"node{number}"
        make = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", str(key)]
        subprocess.run(make, check=True)
        _flwr(processes, "supernode", "register", key.with_suffix(".pub"), "here")
        command = [BIN / "flower-supernode", "--root-certificates", ca, "--superlink", address]
        command += ["--auth-supernode-private-key", key, "--host", host, "--port", own]
        processes.start(f"node{number}", command)


def _flwr(processes: Processes, *arguments: object) -> None:
    """Run a command of Flower's, again while the SuperLink is not there yet."""
    command = [str(each) for each in (BIN / "flwr", *arguments)]
    said = ""

    def done() -> bool:
        nonlocal said
        environment = processes.environment
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        said = run.stdout + run.stderr
        return run.returncode == 0

    try:
        wait_until(done, f"flwr {arguments[0]}", 90.0)
    except RuntimeError as error:
        raise RuntimeError(f"{error}:\n{said[-2000:]}") from None
