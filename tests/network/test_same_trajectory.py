"""The same rounds to the bit: in one process, on devices over TLS, and in Flower's simulation.

All three divide the same rows.  The devices read their shards from files, as `leff server split`
writes them, and hold nothing out.
"""

import json
import subprocess

import pytest
from network.real import LEFF, RealServer
from tiny_runs import flags, least, outcome, write_table

from leff.runs.config import load_config
from leff.runs.split_files import write_shards

METHODS = ("leff", "fedavg", "fedlora", "slora")
DEVICES = 3
SAME = ("layers", "losses", "examples", "steps", "upload_bytes", "layer_scores", "failure")


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
        "training__rounds": 2,
        "engine__workers": 2,
    }
    return least(folder, **changes)


@pytest.fixture(scope="module")
def server(tmp_path_factory, values):
    """A real server with a device for each client."""
    folder = tmp_path_factory.mktemp("federation")
    shards = write_shards(load_config(None, values), DEVICES, folder / "shards")
    with RealServer(folder) as started:
        for number, shard in enumerate(shards):
            started.device(f"device-{number}", shard, options=["data.validation_share=0.0"])
        yield started


def run(server, values, method, engine, folder):
    """Do a run to its end; return what it came to."""
    options = {**values, "method.name": method, "engine.name": engine}
    if engine == "flower":
        options["engine.quorum"] = DEVICES
        del options["data.train_examples"]  # the devices have all of theirs
    command = [*LEFF, "run", "--out", str(folder / engine), *flags(options)]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return outcome(folder / engine)


def trajectory(found):
    """Return losses, blocks and bytes of every round, without the time and the downloads."""
    return [
        {
            "round": record["round"],
            "loss": record["loss"],
            "train_loss": record.get("train_loss"),
            "upload_bytes": record.get("upload_bytes"),
            "clients": [
                {name: client.get(name) for name in ("client", *SAME)}
                for client in record.get("clients", ())
            ],
        }
        for record in found["records"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_engine_gives_the_same_rounds_to_the_bit(server, values, method, tmp_path):
    local = run(server, values, method, "local", tmp_path)
    network = run(server, values, method, "flower", tmp_path)
    simulated = run(server, values, method, "flower-simulation", tmp_path)

    assert len(local["records"]) == 3 and len(local["records"][1]["clients"]) == DEVICES
    assert simulated["records"] == local["records"]  # its downloads are counted in the same way
    assert simulated["model"] == local["model"]
    assert trajectory(network) == trajectory(local), json.dumps(network["records"])
    assert network["model"] == local["model"]


@pytest.mark.slow
def test_the_comparison_sees_another_seed(server, values, tmp_path):
    first = run(server, values, "fedavg", "local", tmp_path / "a")
    other = run(server, {**values, "seed": 1}, "fedavg", "local", tmp_path / "b")
    assert trajectory(first) != trajectory(other) and first["model"] != other["model"]
