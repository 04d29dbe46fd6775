"""Secure sums on real devices that are killed in the middle of one."""

import pytest
from network.real import RealServer, rounds
from tiny_runs import flags, least, outcome, write_table

import leff
from leff.runs.config import load_config
from leff.runs.split_files import write_shards

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern")  # flwr's own
DEVICES = 3


@pytest.mark.slow
def test_a_device_and_a_run_that_are_killed_in_a_sum_end_at_the_same_bits(tmp_path, quick_runs):
    """The device goes on with the secrets on its disk; the run asks for the very same sums."""
    table = write_table(tmp_path / "train.jsonl", "text", 36)
    options = {
        "data__train": str(table),
        "data__train_examples": 24,
        "clients__count": DEVICES,
        "clients__layers": [1, 2, 4],
        "method__name": "leff",
        "training__rounds": 3,
        "privacy__secure_sums": True,
        "engine__quorum": DEVICES,
    }
    values = least(tmp_path, **options)
    shards = write_shards(load_config(None, values), DEVICES, tmp_path / "shards")
    leff.run(**values, out=tmp_path / "local")
    with RealServer(tmp_path / "federation") as server:
        for number, shard in enumerate(shards):
            server.device(f"device-{number}", shard, options=["data.validation_share=0.0"])
        own = {name: value for name, value in values.items() if name != "data.train_examples"}
        own |= {"engine.name": "flower", "engine.server": str(server.path)}
        out = tmp_path / "network"
        running = server.start("run", "run", "--out", out, *flags(own))
        begun = server.folder / "device-1" / "outbox"
        server.until(lambda: list(begun.rglob("sum.json")), "the first sum", 240.0)
        device = server.devices["device-1"]
        device.end()
        device.start()
        server.until(lambda: rounds(out) >= 1, "the first round", 240.0)
        server.until(lambda: list(begun.rglob("sum.json")), "the second sum", 240.0)
        running.kill()
        resumed = server.start("resume", "resume", out)
        assert resumed.process.wait(240) == 0, resumed.text
    local, network = outcome(tmp_path / "local"), outcome(out)
    assert network["model"] == local["model"]
    secure = [[record["secure"] for record in found["records"][1:]] for found in (local, network)]
    assert secure[0] == secure[1] and all(each["clients"] for each in secure[0])
