"""Does runs: one after another in this process, or several at a time in their own processes.

    failures = sweep(runs, Workshop(Path("runs/paper"), jobs=2), finish, say=print)

An interrupted run is resumed.  A run that fails does not stop the others.  KeyboardInterrupt and
a request to terminate stop all.
"""

import functools
import logging
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from leff.engines.processes import terminable
from leff.errors import ConfigError, LeffError, RunError
from leff.extras import need
from leff.files import write_atomically
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml
from leff.sweeps.keys import options_of

log = logging.getLogger("leff.sweeps")
HEAVY = ("checkpoints", "model", "parts", "updates")  # deleted when a run is finished


class PlannedRun(Protocol):
    """A run that is to be done: its options, its folder's name, and what people call it."""

    @property
    def config(self) -> RunConfig: ...
    @property
    def key(self) -> str: ...
    @property
    def label(self) -> str: ...


Planned = TypeVar("Planned", bound=PlannedRun)
Start = Callable[[PlannedRun, Path], None]


@dataclass(frozen=True)
class Workshop:
    """The folder of unfinished runs, how many run at a time, and whether models are kept."""

    folder: Path
    jobs: int = 0  # 0: one for each GPU, or one
    keep: bool = False
    heavy: tuple[str, ...] = HEAVY  # what is deleted of a finished run, unless all is kept

    def run_folder(self, run: PlannedRun) -> Path:
        return self.folder / run.key


def sweep(
    runs: Sequence[Planned],
    workshop: Workshop,
    finish: Callable[[Planned, Path, float | None], None],
    say: Callable[[str], None],
    done: Callable[[Planned], bool] = lambda run: False,
) -> dict[str, str]:
    """Start or resume every run, and call `finish` for each when it ends.

    `finish` gets the run, its folder, and the seconds that it took if it ran alone.  A run is
    skipped if `done` returns True for it: another process may have done it meanwhile.  Return error
    messages by the key of the run.

    Raises UsageError if a package that runs need is not installed.
    """
    if runs:
        need("server", "a run")
    gpus = _gpus()
    jobs = min(workshop.jobs or max(1, len(gpus)), max(1, len(runs)))
    timed = jobs == 1 or jobs <= len(gpus)  # no two runs share a GPU or the cores

    def one(run: Planned, start: Start) -> str:
        if done(run):
            return "done by another process"
        return _to_its_end(run, workshop, start, finish, say, timed)

    if jobs == 1:
        work = ((run, functools.partial(one, run, in_this_process)) for run in runs)
        with terminable():
            return _failures(work, len(runs), say)
    with terminable(), ThreadPoolExecutor(jobs) as pool:
        processes = Processes(gpus, jobs)
        futures = {pool.submit(one, run, processes.start): run for run in runs}
        try:
            ended = ((futures[future], future.result) for future in as_completed(futures))
            return _failures(ended, len(runs), say)
        except BaseException:  # such as Ctrl-C, which is raised again
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise


def _failures(
    work: Iterable[tuple[Planned, Callable[[], str]]], count: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Do all of the work and print each outcome; return error messages by the run's key."""
    failures: dict[str, str] = {}
    for number, (run, result) in enumerate(work, start=1):
        try:
            outcome = result()
        except Exception as error:  # the other runs go on, whatever the error
            if not isinstance(error, LeffError):
                log.error("%s failed", run.label, exc_info=True)
            failures[run.key] = str(error) or repr(error)
            outcome = f"failed: {failures[run.key]}"
        say(f"{number} of {count}: {run.label}, {outcome}")
    return failures


def _to_its_end(
    run: Planned,
    workshop: Workshop,
    start: Start,
    finish: Callable[[Planned, Path, float | None], None],
    say: Callable[[str], None],
    timed: bool,
) -> str:
    """Start or resume a run, save its result, clear its folder; return the time it took.

    Raises ConfigError if the folder was started with other options.
    """
    folder, started = workshop.run_folder(run), time.perf_counter()
    fresh = not (folder / "config.toml").exists()
    say(f"{run.label} {'starts' if fresh else 'goes on'} in {folder}")
    if not fresh and options_of(load_config(folder / "config.toml")) != options_of(run.config):
        raise ConfigError(
            f"{folder} was started with other options than {run.label} has now; delete the folder "
            "and run again"
        )
    if RunFolder(folder).result() is None:  # a finished run's model may be gone
        start(run, folder)
    seconds = time.perf_counter() - started
    finish(run, folder, seconds if fresh and timed else None)
    if not workshop.keep:
        for name in workshop.heavy:
            shutil.rmtree(folder / name, ignore_errors=True)
    return f"{seconds:.0f} s"


def in_this_process(run: PlannedRun, folder: Path) -> None:
    """Run or resume `run` in `folder`."""
    from leff import api

    if (folder / "config.toml").exists():
        api.resume(folder)
    else:
        api.run(run.config, out=folder)


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return (named.split(",") if named else [str(i) for i in range(count)])[:count]


class Processes:
    """Does runs in processes of their own, each on a GPU or on a share of the cores."""

    def __init__(self, gpus: Sequence[str], jobs: int) -> None:
        self._jobs = jobs
        self._places: queue.Queue[str | None] = queue.Queue()
        for slot in range(jobs):
            self._places.put(gpus[slot % len(gpus)] if gpus else None)
        self._at_work: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def start(self, run: PlannedRun, folder: Path) -> None:
        """Run or resume `run` in `folder`.  Raises RunError with the process's last line."""
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
        """Stop the processes; each run continues from its last round when it is asked for again."""
        self._ended = True
        for process in list(self._at_work):
            process.terminate()


def _sharing(config: RunConfig, jobs: int) -> RunConfig:
    """Return the configuration with a share of the cores, unless it sets engine.workers."""
    from joblib import cpu_count

    from leff.models.hardware import torch_device

    if config.engine.workers or torch_device(config.engine.device).type != "cpu":
        return config
    workers = max(1, cpu_count() // (jobs * config.engine.threads))
    engine = config.engine.model_copy(update={"workers": min(4, workers)})
    return config.model_copy(update={"engine": engine})
