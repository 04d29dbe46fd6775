"""Runs what is missing: one after another in this process, or several in processes of their own.

    failures = sweep(runs, Workshop(Path("runs/paper"), jobs=2), finish, say=print)

A run that was cut is resumed.  One that fails does not stop the others; KeyboardInterrupt does.
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

from leff.config import RunConfig, commented_toml, load_config
from leff.durable import write_atomically
from leff.errors import ConfigError, LeffError, RunError
from leff.paper.cells import PaperRun
from leff.paper.results import options_of

log = logging.getLogger("leff.paper")
HEAVY = ("checkpoints", "model", "parts", "updates")  # of a finished run's folder

Finish = Callable[[PaperRun, Path, float | None], None]  # the last: seconds, if they can be told


@dataclass(frozen=True)
class Workshop:
    """Where runs are at work, how many at a time, and whether their models are kept."""

    folder: Path
    jobs: int = 0  # 0: one a GPU, or one
    keep: bool = False

    def run_folder(self, run: PaperRun) -> Path:
        return self.folder / run.key


def sweep(
    runs: Sequence[PaperRun], workshop: Workshop, finish: Finish, say: Callable[[str], None]
) -> dict[str, str]:
    """Bring every run to its end, and call `finish` for each as soon as it is there.

    Return what went wrong, by the key of the run.
    """
    gpus = _gpus()
    jobs = min(workshop.jobs or max(1, len(gpus)), max(1, len(runs)))
    timed = jobs == 1 or jobs <= len(gpus)  # no run shares what it runs on
    start = in_this_process if jobs == 1 else _in_own_process(gpus, jobs)

    def one(run: PaperRun) -> str:
        return _to_its_end(run, workshop, start, finish, say, timed)

    if jobs == 1:
        return _failures(((run, functools.partial(one, run)) for run in runs), len(runs), say)
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(one, run): run for run in runs}
        try:
            done = ((futures[future], future.result) for future in as_completed(futures))
            return _failures(done, len(runs), say)
        except BaseException:  # Ctrl-C among them; it goes on to the caller
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _failures(
    work: Iterable[tuple[PaperRun, Callable[[], str]]], count: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Do all of the work and say how each went; return what went wrong, by the run's key."""
    failures: dict[str, str] = {}
    for number, (run, result) in enumerate(work, start=1):
        try:
            said = result()
        except Exception as error:  # whatever it is, the other runs are worth having
            if not isinstance(error, LeffError):
                log.error("%s failed", run.label, exc_info=True)
            failures[run.key] = str(error) or repr(error)
            said = f"failed: {failures[run.key]}"
        say(f"{number} of {count}: {run.label}, {said}")
    return failures


def _to_its_end(
    run: PaperRun,
    workshop: Workshop,
    start: Callable[[PaperRun, Path], None],
    finish: Finish,
    say: Callable[[str], None],
    timed: bool,
) -> str:
    """Run or resume, keep the result, clear the folder; return how long it took."""
    folder, started = workshop.run_folder(run), time.perf_counter()
    fresh = not (folder / "config.toml").exists()
    say(f"{run.label} {'starts' if fresh else 'goes on'} in {folder}")
    if not fresh:
        _check_folder(folder, run)
    start(run, folder)
    seconds = time.perf_counter() - started
    finish(run, folder, seconds if fresh and timed else None)
    if not workshop.keep:
        for name in HEAVY:
            shutil.rmtree(folder / name, ignore_errors=True)
    return f"{seconds:.0f} s"


def in_this_process(run: PaperRun, folder: Path) -> None:
    """Run or resume `run` in `folder`."""
    from leff import api

    if (folder / "config.toml").exists():
        api.resume(folder)
    else:
        api.run(run.config, out=folder)


def _in_own_process(gpus: Sequence[str], jobs: int) -> Callable[[PaperRun, Path], None]:
    """Return a way to run in a new process, on one of the GPUs or on its share of the cores."""
    places: queue.Queue[str | None] = queue.Queue()
    for slot in range(jobs):
        places.put(gpus[slot % len(gpus)] if gpus else None)

    def start(run: PaperRun, folder: Path) -> None:
        command = ["resume", str(folder)]
        if not (folder / "config.toml").exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            toml = folder.with_suffix(".toml")
            write_atomically(toml, commented_toml(_sharing(run.config, jobs)).encode())
            command = ["run", str(toml), "--out", str(folder)]
        place = places.get()
        environment = os.environ if place is None else {**os.environ, "CUDA_VISIBLE_DEVICES": place}
        log_file = folder.with_suffix(".log")
        try:
            with log_file.open("w", encoding="utf-8") as file:
                done = subprocess.run(
                    [sys.executable, "-m", "leff", *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    check=False,
                )
        finally:
            places.put(place)
        if done.returncode:
            lines = log_file.read_text(encoding="utf-8").splitlines()
            last = lines[-1].removeprefix("error: ") if lines else ""
            raise RunError(f"{last or f'exit status {done.returncode}'} (see {log_file})")
        for scratch in (log_file, folder.with_suffix(".toml")):
            scratch.unlink(missing_ok=True)

    return start


def _sharing(config: RunConfig, jobs: int) -> RunConfig:
    """Return the configuration with its share of the cores, where it does not name its workers."""
    from joblib import cpu_count

    if config.engine.workers:
        return config
    workers = max(1, cpu_count() // (jobs * config.engine.threads))
    engine = config.engine.model_copy(update={"workers": min(4, workers)})
    return config.model_copy(update={"engine": engine})


def _check_folder(folder: Path, run: PaperRun) -> None:
    """Raise ConfigError for a run folder that was started with other options."""
    if options_of(load_config(folder / "config.toml")) != options_of(run.config):
        raise ConfigError(
            f"{folder} was started with other options than {run.label} has now; delete the folder "
            "and run again"
        )


def _gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return (named.split(",") if named else [str(i) for i in range(count)])[:count]
