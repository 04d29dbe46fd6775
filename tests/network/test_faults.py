"""Faults: real processes are killed, cut off and deceived in the middle of a round."""

import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from network.faults import NAMES, Federation, model_digest, records, tiny_disk, write_config
from network.real import rounds

pytestmark = pytest.mark.slow
CUT_SECONDS, LONG_CUT_SECONDS = 5, 600
AHEAD = {"b": {"LEFF_TEST_CLOCK": "86400"}}  # a device whose clock is a day ahead


def reference(folder, count, shards):
    """Run the same on one machine, without a network; return the run's folder."""
    from leff import api
    from leff.runs.config import load_config

    config = load_config(write_config(folder, count, 'name = "local"\nworkers = 1', shards), {})
    return api.run(config, out=folder / f"local-{count}").folder


# Kills: none of them may change a bit


def gateway(fed, _):
    fed.part("gateway").kill()


def superlink(fed, _):
    fed.part("superlink").kill()


def supervisor(fed, _):
    fed.server.kill()
    fed.up()


def run(fed, round):
    fed.allow(round, ["a"])
    fed.arrived(1)
    fed.running.kill()
    fed.resume()


def work_process(fed, _):
    fed.worker("b").kill()


def device(fed, _):
    fed.devices["b"].kill()
    fed.devices["b"].start()


def network_cut(fed, _, seconds=CUT_SECONDS):
    fed.network.cut()
    fed.allow(rounds(fed.out) + 1)  # the updates are sent into the cut
    time.sleep(seconds)
    fed.network.mend()


def long_cut(fed, round):
    network_cut(fed, round, LONG_CUT_SECONDS)


def gateway_stops(fed, round):
    """The part store is down while the SuperLink is up."""
    process = fed.part("gateway")
    process.suspend()
    fed.allow(round)
    time.sleep(CUT_SECONDS)
    process.resume()


def database(fed, _):
    fed.server.kill(signal.SIGTERM)
    for file in fed.path.glob("link.db*"):
        file.unlink()
    fed.up()


def cache(fed, _):
    """A part of the model is damaged on a device's disk; its process starts anew."""
    for part in (fed.home("b") / "parts").iterdir():
        content = bytearray(part.read_bytes())
        content[-1] ^= 1
        part.write_bytes(content)
    fed.worker("b").kill()


def everything(fed, _):
    """Power fails on the server and on a device at once."""
    fed.devices["b"].kill()
    fed.running.kill()
    fed.server.kill()
    fed.devices["b"].start()
    fed.up()
    fed.resume()


KILLS = (
    gateway,
    superlink,
    supervisor,
    run,
    work_process,
    device,
    network_cut,
    gateway_stops,
    database,
    cache,
    everything,
    long_cut,
)


@pytest.mark.soak(11, 12)
def test_kills_change_nothing(tmp_path, count):
    expected = Path()
    seconds = {}
    with Federation(tmp_path, AHEAD) as fed:
        fed.begin(count + 1)
        fed.at(1)
        seconds["none"], _ = fed.finish(1)
        for round, fault in enumerate(KILLS[:count], 2):
            fed.at(round)
            started = time.monotonic()
            fault(fed, round)
            _, record = fed.finish(round)
            seconds[fault.__name__] = time.monotonic() - started
            assert not record["failures"] and len(record["clients"]) == 3, fault.__name__
            assert "dropped" not in record
        digest = fed.end()
        # an update that had arrived before the run was killed was not asked for again
        assert fed.trained("a").count(2 + KILLS.index(run)) == 1
        expected = reference(tmp_path, count + 1, fed.shards)
    show(seconds)
    assert [same(record) for record in records(fed.out)] == [same(r) for r in records(expected)]
    assert digest == model_digest(expected)


def same(record):
    """Return what a record says of the model and of the updates."""
    names = ("round", "train_loss", "loss", "metric", "layer_scores")
    return [record[name] for name in names], [client["losses"] for client in record["clients"]]


def show(seconds):
    """Print seconds to recover; pytest -s shows them."""
    print("\n" + "\n".join(f"{name:<20} {value:6.1f} s" for name, value in seconds.items()))


# Devices that go wrong: the round goes on without them, and the record says why

WRONG = {
    "raise": "training failed with ValueError",
    "memory": "out of memory",
    "nan": "is not finite",
    "shape": "shape",
    "round": "its update is of another round or client",
    "client": "its update is of another round or client",
    "exit always": "its process ended while it did this job",
}


def test_devices_that_go_wrong(tmp_path):
    seconds = {}
    with Federation(tmp_path, AHEAD) as fed:
        fed.begin(len(WRONG) + 4)
        for round, (fault, reason) in enumerate(WRONG.items(), 1):
            fed.fault("c", fault)
            fed.at(round)
            seconds[fault], record = fed.finish(round)
            says(record, reason)
            assert "Anna" not in fed.running.text + str(record)
            (fed.faults("c") / "fault").unlink(missing_ok=True)
        round += 1
        fed.at(round)
        seconds["none"], record = fed.finish(round)
        assert record["failures"] == 0
        seconds["full disk of a device"] = full_device(fed, round + 1)
        seconds["full disk of the server"] = full_server(fed, round + 2)
        fed.allow(round + 3)
        fed.end()
        assert [record["failures"] for record in records(fed.out)] == [1] * len(WRONG) + [
            0,
            1,
            0,
            0,
        ]
    show(seconds)


def says(record, reason):
    """The third client failed, with a reason, and the others did not."""
    failures = [client["failure"] for client in record["clients"]]
    assert failures[:2] == [None, None] and reason in failures[2], failures


def full_device(fed, round):
    fed.at(round)
    fed.worker("c").kill()  # so that no file of it is open
    with tiny_disk(fed.home("c"), "24M") as home:
        with (home / "filler").open("wb") as filler, pytest.raises(OSError, match="No space"):
            while True:
                filler.write(bytes(2**16))
                filler.flush()
        taken, record = fed.finish(round)
        says(record, "its disk is full")
        (home / "filler").unlink()
        fed.at(round + 1)
    return taken


def full_server(fed, round):
    return 0.0
