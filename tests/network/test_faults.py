"""Faults: real processes are killed, cut off and deceived in the middle of a round."""

import contextlib
import signal
import time
from collections import Counter
from random import Random

import psutil
import pytest
from network.faults import (
    NAMES,
    Federation,
    full_disk,
    model_digest,
    records,
    write_config,
    write_rows,
)
from network.real import rounds

pytestmark = pytest.mark.slow
CUT_SECONDS, LONG_CUT_SECONDS = 5, 600
DEADLINE_SECONDS = 180
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
    superlink,
    run,
    database,
    everything,
    network_cut,
    work_process,
    gateway,
    supervisor,
    device,
    cache,
    gateway_stops,
    long_cut,
)


@pytest.mark.soak(7, 12)
def test_kills_change_nothing(tmp_path, count):
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


def goes_wrong(what, reason):
    """Return a fault in the training of the third device."""

    def fault(fed, round):
        fed.fault("c", what)
        fed.at(round)
        seconds, record = fed.finish(round)
        says(record, reason)
        assert "Anna" not in fed.running.text + str(record)
        (fed.faults("c") / "fault").unlink(missing_ok=True)
        return seconds

    fault.__name__ = what
    return fault


def says(record, reason):
    """The third client failed, with a reason, and the others did not."""
    failures = [client["failure"] for client in record["clients"]]
    assert failures[:2] == [None, None] and reason in failures[2], failures


def full_disk_of_a_device(fed, round):
    fed.at(round)
    with full_disk(fed.worker("c")):
        seconds, record = fed.finish(round)
        says(record, "its disk is full")
    return seconds


def full_disk_of_the_server(fed, round):
    """First the gateway can write nothing, then the run; neither loses an update."""
    fed.at(round)
    started = time.monotonic()
    with full_disk(fed.part("gateway")):
        fed.allow(round)
        fed.until(lambda: "507" in fed.log("a"), "a refusal for the full disk")
    with full_disk(psutil.Process(fed.running.process.pid)):
        fed.until(fed.over, "the run's end")
        assert fed.running.process.returncode == 1
        assert "File too large" in fed.running.text
    fed.resume()
    _, record = fed.finish(round)
    assert record["failures"] == 0
    return time.monotonic() - started


def other_version(fed, round):
    """A device is upgraded in the middle of a round, and then it goes back."""
    fed.at(round)
    fed.devices["c"].end()
    own = fed.devices["c"].environment
    fed.devices["c"].environment = {**own, "LEFF_TEST_VERSION": "99.0"}
    fed.devices["c"].start()
    fed.until(lambda: "and this device has leff 99.0" in fed.log("c"), "a refusal")
    fed.devices["c"].end()
    fed.devices["c"].environment = own
    fed.devices["c"].start()
    seconds, record = fed.finish(round)
    assert record["failures"] == 0
    return seconds


def absent(fed, round):
    """A device goes for good in the middle of a round, and comes back in a later one."""
    fed.at(round)
    fed.devices["c"].end()
    seconds, record = fed.finish(round, 2 * DEADLINE_SECONDS)
    says(record, "no answer by the deadline")
    fed.devices["c"].start()
    fed.until(lambda: fed.says("c") == "waiting", "the device again")
    return seconds


def second_process(fed, round):
    """Two processes use one key: which of them answers is chance, and the server notices."""
    fed.at(round, ["a", "b"])  # the third may have come back too late for this round
    fed.finish(round)
    fed.at(round + 1)
    twin = fed.twin("c")
    started = time.monotonic()
    for later in range(round + 1, round + 21):
        fed.allow(later, ["c"])
        time.sleep(6)  # who answered looks seldom again, so the other may come first
        fed.finish(later)
        if "two processes use this key" in fed.running.text:
            break
    seconds = time.monotonic() - started
    _, record = fed.finish(later + 1)
    assert [client["client"] for client in record["clients"]] == [0, 1]
    twin.end()
    fed.devices["c"].end()
    fed.devices["c"].start()
    fed.until(lambda: fed.says("c") == "waiting", "the device again")
    for again in range(later + 2, later + 12):  # who was refused is asked again after 20 s
        time.sleep(3)
        _, record = fed.finish(again)
        if len(record["clients"]) == 3:
            break
    assert [client["client"] for client in record["clients"]] == [0, 1, 2]
    return seconds


def stranger(fed, round):
    """A device that nobody admitted says how it is admitted, and waits; then it is there."""
    fed.at(round)
    name, data = "stranger", write_rows(fed.folder / "stranger.jsonl", 16, 60)
    home = fed.join(name)
    options = ["--set", "data.validation_share=0.0"]
    process = fed.start(name, "device", "start", "--home", home.path, "--data", data, *options)
    started = time.monotonic()
    fed.until(lambda: fed.says(name) == "not admitted", "a refusal")
    assert f"leff server admit {home.public_key}" in home.status()["reason"]
    admitted = fed.json("server", "admit", home.public_key)
    fed.until(lambda: fed.says(name) == "waiting", "the device")
    seconds = time.monotonic() - started
    process.end()
    fed.leff("server", "remove", admitted["key"])
    _, record = fed.finish(round)
    assert not record["failures"] and len(record["clients"]) == 3
    return seconds


WRONG = (
    stranger,
    goes_wrong("raise", "training failed with ValueError"),
    goes_wrong("memory", "out of memory"),
    goes_wrong("nan", "is not finite"),
    goes_wrong("shape", "which the job did not ask for"),
    goes_wrong("round", "its update is of another round or client"),
    goes_wrong("client", "its update is of another round or client"),
    full_disk_of_a_device,
    goes_wrong("exit always", "its process ended while it did this job"),
    full_disk_of_the_server,
    other_version,
    absent,
    second_process,
)


@pytest.mark.soak(7, len(WRONG))
def test_devices_that_go_wrong(tmp_path, count):
    seconds = {}
    with Federation(tmp_path, AHEAD) as fed:
        fed.begin(len(WRONG) + 40, deadline=DEADLINE_SECONDS, quorum=2)
        for round, fault in enumerate(WRONG[:count], 1):
            seconds[fault.__name__] = fault(fed, round)
    show(seconds)


# The soak


@pytest.mark.soak(6, 200)
def test_soak(tmp_path, count):
    """Something is killed every few seconds: the same bits, and bounds on memory and handles.

    The time between faults is up to that of a round in which the run was killed, which loads torch
    again.  Without a fault, no more than two rounds are allowed.
    """
    random, used, done = Random(19), [], Counter()
    with Federation(tmp_path, AHEAD) as fed:
        fed.begin(count)
        fed.at(1)
        killed = time.monotonic()
        run(fed, 1)
        fed.finish(1)
        pace = time.monotonic() - killed
        started = time.monotonic()
        while not fed.over():
            fed.allow(rounds(fed.out) + 2)
            assert time.monotonic() - started < 20 * pace * count, (rounds(fed.out), dict(done))
            time.sleep(pace * random.uniform(0.1, 1.0))
            fault = random.choice(SOAK)
            used.append(fed.usage())
            if not fed.over():
                done[fault.__name__] += fault(fed, random)
        digest = fed.end()
        taken = time.monotonic() - started
        assert all(record["failures"] == 0 for record in records(fed.out))
        folder = reference(tmp_path, count, fed.shards)
    print(f"\n{count} rounds in {taken:.0f} s, {pace:.0f} with a kill; {dict(done)}")
    assert [same(record) for record in records(fed.out)] == [same(r) for r in records(folder)]
    assert digest == model_digest(folder)
    assert sum(done.values()) >= count / 4
    bounded(used)


def bounded(used):
    """Bound what each process held, and how much more that is in the last third of the time."""
    for name, (megabytes, handles) in BOUNDS.items():
        first, last = used[: len(used) // 3 + 1], used[-len(used) // 3 - 1 :]
        most = {
            part: [max((each.get(name, (0, 0))[k] for each in part_), default=0) for k in (0, 1)]
            for part, part_ in (("first", first), ("all", used), ("last", last))
        }
        print(f"{name:<10} MB and handles: {most}")
        assert most["all"][0] < megabytes and most["all"][1] < handles, (name, most)
        assert most["last"][0] <= 1.3 * most["first"][0] + 50, (name, most)


BOUNDS = {  # megabytes and handles of a process
    "gateway": (200, 100),
    "superlink": (400, 100),
    "run": (1500, 200),
    "a": (1500, 200),
    "b": (1500, 200),
    "c": (1500, 200),
}


def kill_part(name):
    def fault(fed, random):
        with contextlib.suppress(psutil.NoSuchProcess):
            fed.part(name).kill()
        return 1

    fault.__name__ = name
    return fault


def kill_supervisor(fed, random):
    supervisor(fed, 0)
    return 1


def kill_run(fed, random):
    if fed.running.kill():  # it had not ended; of a run that was done all is there
        fed.resume()
    return 1


def kill_work_process(fed, random):
    """A device gives a job up whose process ended three times, so one job is hit once."""
    name = random.choice(NAMES)
    if fed.tries(name) > 1:
        return 0
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        fed.worker(name).kill()
    return 1


def kill_device(fed, random):
    name = random.choice(NAMES)
    if fed.tries(name) > 1:
        return 0
    fed.devices[name].kill()
    fed.devices[name].start()
    return 1


def cut(fed, random):
    fed.network.cut()
    time.sleep(random.uniform(1.0, 4.0))
    fed.network.mend()
    return 1


SOAK = (
    kill_part("gateway"),
    kill_part("superlink"),
    kill_supervisor,
    kill_run,
    kill_work_process,
    kill_device,
    cut,
)
