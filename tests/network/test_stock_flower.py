"""A SuperNode of Flower's own beside a device of ours, in one run."""

import sys
from pathlib import Path

import pytest
from network.real import Process, RealServer, free_ports, rounds
from tiny_runs import flags, least, write_table

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def supernode(server, home, config):
    """Start Flower's own node as a device's home says."""
    programs = Path(sys.executable).parent
    command = [
        str(programs / "flower-supernode"),
        *("--port", str(free_ports(1)[0])),
        *("--superlink", f"127.0.0.1:{server.port}"),
        *("--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(home.key_file)),
        *("--node-config", config),
    ]
    log, own = home.path / "supernode.log", {"FLWR_HOME": str(home.path / "flower")}
    own["PATH"] = f"{programs}:{server.environment['PATH']}"  # where it finds flower-superexec
    started = Process("supernode", command, log, {**server.environment, **QUIET, **own})
    server.processes.append(started)
    return started


@pytest.mark.slow
def test_a_stock_supernode_takes_part_beside_a_device_of_ours(tmp_path):
    data = [write_table(tmp_path / f"{name}.jsonl", "text", 12) for name in "ab"]
    values = least(tmp_path, engine__name="flower", engine__quorum=2, training__rounds=1)
    with RealServer(tmp_path) as server:
        stock = server.join("stock")
        server.leff("server", "admit", stock.public_key, "--name", "stock")
        settings = stock.path / "device.toml"
        settings.write_text(f'threads = 1\n[data]\ntrain = "{data[0]}"\nvalidation_share = 0.0\n')
        server.device("ours", data[1], options=["data.validation_share=0.0"])
        node = supernode(server, stock, f'leff-home="{stock.path}"')
        run = server.start("run", "run", "--out", tmp_path / "out", *flags(values))
        ends = run.process, node.process
        server.until(lambda: any(each.poll() is not None for each in ends), "the end", 240)
        assert run.process.returncode == 0, run.text + node.text
        assert rounds(tmp_path / "out") == 1
