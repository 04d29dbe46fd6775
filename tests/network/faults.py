"""A federation whose rounds wait for the test, so that a fault hits the middle of one.

with Federation(folder) as federation:
    federation.begin(rounds=9)          # `leff run`
    federation.at(round=1)              # all devices are in the middle of it
    federation.gateway().kill()
    federation.finish(round=1)          # seconds until its record is there
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
from network.forwarder import Forwarder
from network.real import RealServer, rounds

FAULTS = Path(__file__).with_name("device_faults")
NAMES = ("a", "b", "c")
TOWNS = ("Ashby", "Bree", "Corby", "Dale", "Elm")
CONFIG = """
[data]
task = "table"
kind = "classification"
labels = ["no", "yes"]
{data}
[proxy]
examples = 16
[clients]
count = 3
layers = [1, 2, 2]
[method]
name = "leff"
[training]
rounds = {rounds}
batch_size = 8
[evaluation]
examples = 8
final_examples = 8
gap_clients = 0
{engine}
"""


def write_rows(path, count, first):
    """Write a table of questions with a rule that can be learnt; return its path."""
    with path.open("w") as file:
        for row in range(first, first + count):
            text = f"{TOWNS[row % 5]} has {row} houses and {row % 7} shops"
            file.write(json.dumps({"text": text, "label": ("no", "yes")[row % 2]}) + "\n")
    return path


def write_config(folder, rounds, engine, train=None):
    """Write a run's configuration; return its path."""
    own = "" if train is None else f"train = {json.dumps([str(file) for file in train])}\n"
    for name, first in (("validation", 900), ("test", 950)):
        own += f'{name} = "{write_rows(folder / f"{name}.jsonl", 20, first)}"\n'
    path = folder / f"{engine.split(chr(34))[1]}-{rounds}.toml"
    path.write_text(CONFIG.format(data=own, rounds=rounds, engine=f"[engine]\n{engine}"))
    return path


def model_digest(run):
    return hashlib.sha256((Path(run) / "model" / "model.safetensors").read_bytes()).hexdigest()


def records(run):
    """Return the records of a run's rounds, from round 1."""
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()[1:]]


class Federation(RealServer):
    """A server and three devices behind a network that can be cut."""

    def __init__(self, folder, environment=()):
        folder.mkdir(exist_ok=True)
        super().__init__(folder)
        self.shards = [
            write_rows(folder / f"{name}.jsonl", 16, 20 * k) for k, name in enumerate(NAMES)
        ]
        self._more = dict(environment)  # a device's name -> variables of its process
        self.network = Forwarder(self.port)
        self.out = self.running = None

    def __enter__(self):
        super().__enter__()
        self.network.__enter__()
        self.join_file = self.folder / "join.json"
        join = json.loads((self.path / "join.json").read_text())
        join["address"] = f"127.0.0.1:{self.network.port}"
        self.join_file.write_text(json.dumps(join))
        for name in NAMES:
            self.add(name)
        self.until(lambda: all(self.says(name) == "waiting" for name in NAMES), "devices")
        return self

    def __exit__(self, *_):
        super().__exit__()
        self.network.__exit__()

    # Devices

    def add(self, name):
        """Start a device with the file of its name."""
        folder = self.faults(name)
        folder.mkdir()
        self.allow(0, [name])
        more = {"LEFF_TEST_FAULTS": str(folder), **self._more.get(name, {})}
        more["PYTHONPATH"] = os.pathsep.join([str(FAULTS), self.environment["PYTHONPATH"]])
        data, whole = self.folder / f"{name}.jsonl", ["data.validation_share=0.0"]
        self.device(name, data, options=whole, environment=more)

    def faults(self, name):
        return self.folder / f"faults-{name}"

    def allow(self, round, names=NAMES):
        """Let devices train up to and with a round (from 1)."""
        for name in names:
            written = self.faults(name) / "new"
            written.write_text(str(round))
            written.replace(self.faults(name) / "allowed")

    def fault(self, name, what):
        """Have something go wrong in a device's next training."""
        (self.faults(name) / "fault").write_text(what)

    def trained(self, name):
        """Return the rounds (from 1) that a device has trained, in order."""
        path = self.faults(name) / "trained"
        return (
            [int(line.split()[0]) + 1 for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )

    def home(self, name):
        return self.folder / name

    def says(self, name):
        """Return what a device wrote that it does."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.home(name) / "status.json").read_text()).get("state")
        return None

    def worker(self, name):
        """Return the process that does a device's work."""
        return psutil.Process(self.devices[name].process.pid).children()[0]

    # The server

    def part(self, name):
        """Return the process of the SuperLink or of the gateway."""
        state = json.loads((self.path / "state.json").read_text())
        return psutil.Process(state["processes"][name]["pid"])

    def up(self, since=""):
        """Wait until the server is ready, after it was started again."""
        ready = self.server.text.count("ready for devices")
        self.server.start()
        self.until(lambda: self.server.text.count("ready for devices") > ready, "the server again")

    # The run

    def begin(self, rounds, name="run", more=""):
        """Start a run of so many rounds; none is trained until it is allowed."""
        self.allow(0)
        for device in NAMES:
            (self.faults(device) / "trained").unlink(missing_ok=True)
        engine = f'name = "flower"\ndeadline = "15min"\nwait = "5min"\n{more or "quorum = 3"}'
        self.out = self.folder / name
        config = write_config(self.folder, rounds, engine)
        self.running = self.run(config, self.out)

    def resume(self):
        self.running = self.start(f"run-{self.out.name}", "resume", self.out)

    def at(self, round, names=NAMES):
        """Wait until devices are in the middle of a round (from 1)."""
        states = f"training in round {round}"
        self.until(lambda: all(self.says(name) == states for name in names), states)

    def arrived(self, count=1):
        """Wait until updates of the round are in the run's folder."""
        self.until(
            lambda: len(list((self.out / "updates").glob("client-*.json"))) >= count, "an update"
        )

    def finish(self, round, seconds=180):
        """Allow a round, wait for its record; return the seconds and the record."""
        started = time.monotonic()
        self.allow(round)
        self.until(lambda: rounds(self.out) >= round or self._over(), f"round {round}", seconds)
        assert rounds(self.out) >= round, self.running.text[-3000:]
        return time.monotonic() - started, records(self.out)[round - 1]

    def _over(self):
        return self.running.process.poll() is not None

    def end(self):
        """Wait for the run's end; return the digest of its model."""
        assert self.running.process.wait(120) == 0, self.running.text[-3000:]
        return model_digest(self.out)


@contextlib.contextmanager
def tiny_disk(path, size):
    """Put a file system of `size` bytes under a folder; what was in it is there, too."""
    copy = path.with_name(f"{path.name}-copy")
    path.rename(copy)
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path])
    assert done.returncode == 0
    try:
        shutil.copytree(copy, path, dirs_exist_ok=True)
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)
