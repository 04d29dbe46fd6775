"""Runs what is missing: one after another in this process, or several in processes of their own.

    failures = sweep(runs, Workshop(Path("runs/paper"), jobs=2), finish, say=print)

A run that was cut is resumed.  One that fails does not stop the others; KeyboardInterrupt does,
and so does a request to terminate.
"""

import functools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from leff.errors import ConfigError, LeffError
from leff.paper.cells import PaperRun
from leff.paper.processes import Processes, terminable
from leff.paper.results import options_of
from leff.runs.config import load_config

log = logging.getLogger("leff.paper")
HEAVY = ("checkpoints", "model", "parts", "updates")  # of a finished run's folder

Start = Callable[[PaperRun, Path], None]
Finish = Callable[[PaperRun, Path, float | None], None]  # the last: seconds, if they can be told
Done = Callable[[PaperRun], bool]


@dataclass(frozen=True)
class Workshop:
    """Where runs are at work, how many at a time, and whether their models are kept."""

    folder: Path
    jobs: int = 0  # 0: one a GPU, or one
    keep: bool = False

    def run_folder(self, run: PaperRun) -> Path:
        return self.folder / run.key


def sweep(
    runs: Sequence[PaperRun],
    workshop: Workshop,
    finish: Finish,
    say: Callable[[str], None],
    done: Done = lambda run: False,
) -> dict[str, str]:
    """Bring every run to its end, and call `finish` for each as soon as it is there.

    `done` is asked before each: another process may have made it meanwhile.  Return what went
    wrong, by the key of the run.
    """
    gpus = _gpus()
    jobs = min(workshop.jobs or max(1, len(gpus)), max(1, len(runs)))
    timed = jobs == 1 or jobs <= len(gpus)  # no run shares what it runs on

    def one(run: PaperRun, start: Start) -> str:
        if done(run):
            return "done by another process"
        return _to_its_end(run, workshop, start, finish, say, timed)

    if jobs == 1:
        work = ((run, functools.partial(one, run, in_this_process)) for run in runs)
        return _failures(work, len(runs), say)
    with terminable(), ThreadPoolExecutor(jobs) as pool:
        processes = Processes(gpus, jobs)
        futures = {pool.submit(one, run, processes.start): run for run in runs}
        try:
            ended = ((futures[future], future.result) for future in as_completed(futures))
            return _failures(ended, len(runs), say)
        except BaseException:  # Ctrl-C among them; it goes on to the caller
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
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
    start: Start,
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
