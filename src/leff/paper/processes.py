"""Runs in processes of their own, several at a time, which end when they are told to.

processes = Processes(gpus=[], jobs=2)
with terminable(): processes.start(run, folder)        # from as many threads as there are jobs
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from leff.errors import RunError
from leff.files import write_atomically
from leff.paper.cells import PaperRun
from leff.runs.config import RunConfig
from leff.runs.toml import commented_toml


class Processes:
    """Runs in processes of their own, each on one of the GPUs or on its share of the cores."""

    def __init__(self, gpus: Sequence[str], jobs: int) -> None:
        self._jobs = jobs
        self._places: queue.Queue[str | None] = queue.Queue()
        for slot in range(jobs):
            self._places.put(gpus[slot % len(gpus)] if gpus else None)
        self._at_work: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def start(self, run: PaperRun, folder: Path) -> None:
        """Run or resume `run` in `folder`.  Raises RunError with what the process said last."""
        command = ["resume", str(folder)]
        if not (folder / "config.toml").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            toml = folder.with_suffix(".toml")
            write_atomically(toml, commented_toml(_sharing(run.config, self._jobs)).encode())
            command = ["run", str(toml), "--out", str(folder)]
        log_file = folder.with_suffix(".log")
        place = self._places.get()
        try:
            status = self._finished(command, log_file, place)
        finally:
            self._places.put(place)
        if status:
            lines = log_file.read_text(encoding="utf-8").splitlines()
            last = lines[-1].removeprefix("error: ") if lines else ""
            raise RunError(f"{last or f'exit status {status}'} (see {log_file})")
        for scratch in (log_file, folder.with_suffix(".toml")):
            scratch.unlink(missing_ok=True)

    def _finished(self, command: Sequence[str], log_file: Path, place: str | None) -> int:
        """Wait for a process and return its exit status."""
        if self._ended:
            raise RunError("interrupted")
        environment = os.environ if place is None else {**os.environ, "CUDA_VISIBLE_DEVICES": place}
        with log_file.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "leff", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self._at_work.add(process)
            try:
                return process.wait()
            finally:
                self._at_work.discard(process)

    def end(self) -> None:
        """End the runs at work; each goes on from its last round when it is asked for again."""
        self._ended = True
        for process in list(self._at_work):
            process.terminate()


def _sharing(config: RunConfig, jobs: int) -> RunConfig:
    """Return the configuration with its share of the cores, where it does not name its workers."""
    from joblib import cpu_count

    from leff.models.hardware import torch_device

    if config.engine.workers or torch_device(config.engine.device).type != "cpu":
        return config
    workers = max(1, cpu_count() // (jobs * config.engine.threads))
    engine = config.engine.model_copy(update={"workers": min(4, workers)})
    return config.model_copy(update={"engine": engine})


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Take a request to terminate as Ctrl-C is taken, so that the processes of runs end too."""
    if threading.current_thread() is not threading.main_thread():  # signals are not ours to set
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
