"""Real processes: a run's workers end with it, however it ends, and it can go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_runs import flags, options, write_table

from leff.engines.processes import terminable


def wait_for(condition, seconds=120):
    """Wait until a condition holds, and return its value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Started:
    """A command line in a process of its own, as soon as its workers are there."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "leff", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, env={**os.environ, "PATH": ""}, stderr=subprocess.PIPE, text=True
        )
        wait_for(lambda: self.process.poll() is not None or len(self.workers()) == 2)
        assert self.process.poll() is None, self.process.stderr.read()

    def workers(self):
        return [each for each in self.family() if "LokyProcess" in " ".join(each.cmdline())]

    def family(self):
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def end(self, sent):
        """Send a signal; return exit status and standard error when nothing is left."""
        family = self.family()
        self.process.send_signal(sent)
        _, said = self.process.communicate(timeout=60)
        assert psutil.wait_procs(family, timeout=20)[1] == []
        shared = Path("/dev/shm")
        wait_for(lambda: not [*shared.glob(f"*-{self.process.pid}-*")] if shared.exists() else True)
        return self.process.returncode, said


@pytest.mark.slow
def test_workers_end_with_their_run_and_the_run_goes_on(tiny_gpt2, tmp_path):
    table, folder = write_table(tmp_path / "train.jsonl", "generation"), tmp_path / "run"
    settings = options(
        tiny_gpt2,
        data__task="table",
        data__train=str(table),
        clients__partition="iid",
        method__name="fedavg",
        training__rounds=1000,
        evaluation__every=1000,
        engine__workers=2,
    )
    lines = folder / "rounds.jsonl"

    def rounds():
        return lines.read_bytes().count(b"\n") if lines.exists() else 0

    command, before = ("run", "--out", folder, "--json", *flags(settings)), 0
    for sent in (signal.SIGTERM, signal.SIGKILL):
        started = Started(*command)
        wait_for(lambda: rounds() > before + 1)  # noqa: B023
        status, said = started.end(sent)
        if sent == signal.SIGTERM:
            assert status == 1, said
            assert f"error: interrupted; `leff resume {folder}` goes on from the last" in said
            assert "Traceback" not in said and "joblib" not in said
        command, before = ("resume", folder, "--json"), rounds()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_stops_even_a_slow_step(sent):
    """Ctrl-C and a request to terminate raise the same error, and the handler is put back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminable():
        os.kill(os.getpid(), sent)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) == before
