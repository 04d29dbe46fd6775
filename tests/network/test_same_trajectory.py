"""The same rounds to the bit: in one process, on devices over TLS, and in Flower's simulation.

All three divide the same rows.  The devices read their shards from files, as `leff server split`
writes them, and hold nothing out.  One device stands for several clients where it has their files.
"""

import contextlib
import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from network.real import RealServer
from tiny_runs import least, outcome, save_tiny, write_table

from leff import api
from leff.runs.config import load_config
from leff.runs.split_files import write_shards

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # flwr's own
METHODS = ("leff", "fedavg", "fedlora", "slora")
SUMS = {"privacy.secure_sums": True, "privacy.least_cohort": 2}
DEVICES = 3
MARK = "LEFF_TEST_SIMULATION"  # in the environment of all that a run starts
SAME = ("layers", "losses", "examples", "steps", "upload_bytes", "layer_scores", "failure")
EVERY_METHOD = """
import sys, json
from leff import api
for out, options in json.load(open(sys.argv[1])):
    api.run(out=out, **options)
"""


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """Options of a tiny run of 24 texts, divided over three clients."""
    folder = tmp_path_factory.mktemp("same")
    table = write_table(folder / "train.jsonl", "text", 36)
    changes = {
        "data__train": str(table),
        "data__train_examples": 24,
        "clients__count": DEVICES,
        "clients__layers": [1, 2, 4],
        "method__rank": 2,
        "training__epochs": 2,
    }
    return least(folder, **changes)


@pytest.fixture(scope="module")
def shards(tmp_path_factory, values):
    """The clients' files, in order."""
    return write_shards(load_config(None, values), DEVICES, tmp_path_factory.mktemp("s") / "shards")


@pytest.fixture(scope="module")
def server(tmp_path_factory, shards):
    """A real server with a device for each client."""
    with RealServer(tmp_path_factory.mktemp("federation")) as started:
        for number, shard in enumerate(shards):
            started.device(f"device-{number}", shard, options=["data.validation_share=0.0"])
        yield started


@pytest.fixture(scope="module")
def simulated(tmp_path_factory, values):
    """What Flower's simulation of every method came to, one run after another in a process.

    "sums" is LEFF with secure sums.
    """
    folder = tmp_path_factory.mktemp("simulated")
    changes = {method: {"method.name": method} for method in METHODS}
    changes["fedavg"]["engine.workers"] = 2
    changes["sums"] = {"method.name": "leff", **SUMS}
    engine = {"engine.name": "flower-simulation"}
    runs = [(str(folder / name), {**values, **engine, **own}) for name, own in changes.items()]
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-c", EVERY_METHOD, str(folder / "runs.json")]
    environment = {**os.environ, MARK: str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    until = time.monotonic() + 20.0
    while left := started_by(str(folder)):
        assert time.monotonic() < until, f"Ray's processes are to end with the run: {left}"
        time.sleep(0.2)
    return {name: outcome(folder / name) for name in changes}


def started_by(mark):
    """Return the processes that still run with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process.cmdline())
    return found


def run(values, method, folder, **more):
    """Do a run in this process; return what it came to."""
    api.run(out=folder, **{**values, "method.name": method, **more})
    return outcome(folder)


def on_devices(server, values, method, folder):
    """Do a run on the devices of a server."""
    own = {name: value for name, value in values.items() if name != "data.train_examples"}
    engine = {"engine.name": "flower", "engine.server": server.path, "engine.quorum": DEVICES}
    return run(own, method, folder, **engine)


def trajectory(found):
    """Return losses, blocks and bytes of every round, without times and downloads."""
    named = ("round", "loss", "train_loss", "learning_rate", "failures", "upload_bytes")
    return [
        {
            **{name: record.get(name) for name in named},
            "clients": [
                {name: client.get(name) for name in ("client", *SAME)}
                for client in record.get("clients", ())
            ],
        }
        for record in found["records"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_engine_gives_the_same_rounds_to_the_bit(
    server, simulated, values, method, tmp_path, quick_runs
):
    local = run(values, method, tmp_path / "local")
    network = on_devices(server, values, method, tmp_path / "network")

    first = local["records"][1]
    assert len(local["records"]) == 3 and len(first["clients"]) == DEVICES
    assert first["failures"] == 0 and first["upload_bytes"] > 0
    assert trajectory(network) == trajectory(local)
    assert network["model"] == local["model"]
    assert simulated[method]["records"] == local["records"]  # it counts downloads in the same way
    assert simulated[method]["model"] == local["model"]


@pytest.mark.slow
def test_noise_in_sums_gives_the_same_bits_on_devices(server, values, tmp_path, quick_runs):
    """Also which clients are drawn, and what was spent."""
    private = {"privacy.noise": 0.3, "privacy.reproducible": True, "clients.per_round": 0.7}
    local = run({**values, **private}, "leff", tmp_path / "local")
    network = on_devices(server, {**values, **private}, "leff", tmp_path / "network")
    assert trajectory(network) == trajectory(local)
    assert network["model"] == local["model"]
    spent = [[record["epsilon"] for record in found["records"]] for found in (local, network)]
    assert spent[0] == spent[1] and 0 < spent[0][1] < spent[0][2]


@pytest.mark.slow
def test_devices_add_their_own_noise(server, values, tmp_path, quick_runs):
    """Noise of the operating system: another run ends at another model."""
    private = {**values, "privacy.noise": 0.3, "privacy.where": "device", "privacy.delta": 0.01}
    found = [on_devices(server, private, "fedlora", tmp_path / name) for name in "ab"]
    for own in found:
        assert [record["failures"] for record in own["records"][1:]] == [0, 0]
        assert all(client["losses"] is None for client in own["records"][1]["clients"])
        assert own["records"][2]["epsilon"] > own["records"][1]["epsilon"] > 0
    assert found[0]["model"] != found[1]["model"]


@pytest.mark.slow
def test_a_device_of_three_files_stands_for_three_clients(
    shards, values, tmp_path, quick_runs, tmp_path_factory
):
    local = run(values, "leff", tmp_path / "local")
    with RealServer(tmp_path_factory.mktemp("one")) as server:
        pattern = shards[0].parent / "*.jsonl"
        server.device("all", pattern, options=["data.validation_share=0.0"])
        network = on_devices(
            server, {**values, "engine.device_clients": 3}, "leff", tmp_path / "network"
        )
        clients = json.loads((tmp_path / "network" / "clients.json").read_text())["clients"]
    assert [share for _, share in clients] == [0, 1, 2] and len({key for key, _ in clients}) == 1
    assert trajectory(network) == trajectory(local)
    assert network["model"] == local["model"]


@pytest.mark.slow
def test_the_comparison_sees_another_seed(values, tmp_path, quick_runs):
    first = run(values, "fedavg", tmp_path / "a")
    other = run({**values, "seed": 1}, "fedavg", tmp_path / "b")
    assert trajectory(first) != trajectory(other) and first["model"] != other["model"]


@pytest.mark.slow
def test_devices_level_a_head_to_the_same_bits(tmp_path, quick_runs):
    """Their answers are decisions of the round, since another time others may be there."""
    table = write_table(tmp_path / "labelled.jsonl", "classification")
    changes = {
        "model__name": str(save_tiny(tmp_path / "model", "classification")),
        "data__train": str(table),
        "data__train_examples": 30,
        "clients__count": DEVICES,
        "training__levelled": True,
        "training__learning_rate": 1e-2,
    }
    values = least(tmp_path, **changes)
    files = write_shards(load_config(None, values), DEVICES, tmp_path / "shards")
    local = run(values, "leff", tmp_path / "local")
    with RealServer(tmp_path / "federation") as started:
        for number, shard in enumerate(files):
            started.device(f"device-{number}", shard, options=["data.validation_share=0.1"])
        network = on_devices(started, values, "leff", tmp_path / "network")
    assert trajectory(network) == trajectory(local) and network["model"] == local["model"]
    steps = [[r["level"]["step"] for r in found["records"][1:]] for found in (local, network)]
    assert steps[0] == steps[1] and all(any(step) for step in steps[0])
    decided = json.loads((tmp_path / "network" / "decisions.json").read_text())
    assert all("level" in own for index, own in decided.items() if index.isdecimal())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leff", "fedlora"])
def test_secure_sums_give_the_same_bits_on_devices(
    server, simulated, values, method, tmp_path, quick_runs
):
    """Masks cancel to the bit, and no update reaches the server."""
    secure = {**values, **SUMS}
    local = run(secure, method, tmp_path / "local")
    network = on_devices(server, secure, method, tmp_path / "network")
    assert trajectory(network) == trajectory(local)
    assert network["model"] == local["model"]
    sums = [[record["secure"] for record in found["records"][1:]] for found in (local, network)]
    assert sums[0] == sums[1] and all(each["clients"] for each in sums[0])
    assert not list((tmp_path / "network" / "updates").rglob("[0-9a-f]" * 64))
    if method == "leff":
        assert simulated["sums"]["records"] == local["records"]
        assert simulated["sums"]["model"] == local["model"]
