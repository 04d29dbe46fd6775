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
import time
from pathlib import Path

import psutil
from network.forwarder import Forwarder
from network.real import RealServer, rounds

FAULTS = Path(__file__).with_name("device_faults")
NAMES = ("a", "b", "c")
FULL_BYTES = 4096
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
validation_share = 0.0
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
        try:
            return self._started()
        except BaseException:  # what was started ends
            self.__exit__()
            raise

    def _started(self):
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

    def log(self, name):
        return self.devices[name].text

    def worker(self, name):
        """Return the process that does a device's work."""
        return psutil.Process(self.devices[name].process.pid).children()[0]

    def tries(self, name):
        """Return how many processes of a device have been at the job that it does now."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return json.loads((self.home(name) / "inbox.json").read_text())["tries"]
        return 0

    def twin(self, name):
        """Start a second process with a device's key, on a copy of its home."""
        first, home = self.devices[name], self.folder / f"{name}-twin"
        shutil.copytree(self.home(name), home, ignore=shutil.ignore_patterns("inbox.json"))
        data = self.folder / f"{name}.jsonl"
        more = {key: first.environment[key] for key in ("LEFF_TEST_FAULTS", "PYTHONPATH")}
        command = ["device", "start", "--home", home, "--data", data]
        command += ["--set", "data.validation_share=0.0"]
        twin = self.start(f"{name}-twin", *command, environment=more)
        self.until(lambda: self.says(home.name) == "waiting", "the second process")
        return twin

    def usage(self):
        """Return megabytes and open handles of each process that runs, by name."""
        found = {}
        processes = {part: lambda part=part: self.part(part) for part in ("gateway", "superlink")}
        processes["run"] = lambda: psutil.Process(self.running.process.pid)
        processes |= {name: lambda name=name: self.worker(name) for name in NAMES}
        for name, process in processes.items():
            with contextlib.suppress(psutil.Error, OSError, ValueError, KeyError, IndexError):
                each = process()
                found[name] = each.memory_info().rss / 1e6, each.num_fds()
        return found

    # The server

    def part(self, name):
        """Return the process of the SuperLink or of the gateway."""
        state = json.loads((self.path / "state.json").read_text())
        return psutil.Process(state["processes"][name]["pid"])

    def up(self):
        """Wait until the server is ready, after it was started again."""
        ready = self.server.text.count("ready for devices")
        self.server.start()
        self.until(lambda: self.server.text.count("ready for devices") > ready, "the server again")

    # The run

    def begin(self, rounds, deadline=900, quorum=3):
        """Start a run of so many rounds; none is trained until it is allowed."""
        engine = f'name = "flower"\ndeadline = "{deadline}s"\nwait = "5min"\nquorum = {quorum}'
        self.out = self.folder / "run"
        self.running = self.run(write_config(self.folder, rounds, engine), self.out)

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
        self.until(lambda: rounds(self.out) >= round or self.over(), f"round {round}", seconds)
        assert rounds(self.out) >= round, self.running.text[-3000:]
        return time.monotonic() - started, records(self.out)[round - 1]

    def over(self):
        return self.running.process.poll() is not None

    def end(self):
        """Wait for the run's end; return the digest of its model."""
        assert self.running.process.wait(120) == 0, self.running.text[-3000:]
        return model_digest(self.out)


@contextlib.contextmanager
def full_disk(process):
    """Refuse a process what it writes behind the first bytes of any file, as a full disk does."""
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (FULL_BYTES, before[1]))
    yield
    with contextlib.suppress(psutil.NoSuchProcess):
        process.rlimit(psutil.RLIMIT_FSIZE, before)
