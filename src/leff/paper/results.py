"""Result files: small enough to commit, and checked when they are read.

    store = ResultStore(Path("results/mini"), PUBLISHED / "mini")
    store.write(run, collect(folder, ...)); store.read(run)["after"]["metrics"]

A file is named by its run's key.  It holds a digest of its content, so an edited file is refused.
It also holds every option, so a file made with other options is refused.
"""

import os
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from leff.errors import DataError
from leff.files import unsealed, write_json
from leff.paper.cells import PaperRun
from leff.sweeps.keys import options_of

Result = dict[str, Any]
PUBLISHED = Path(__file__).parent / "results"  # a folder for each size


@dataclass(frozen=True)
class ResultStore:
    """The results of one size: the user's own, and those that come with LEFF."""

    folder: Path
    published: Path | None = None

    def path(self, key: str) -> Path:
        """Return the file of a run's result: the user's own, or else the one that is published."""
        own = self.folder / f"{key}.json"
        if own.exists() or self.published is None:
            return own
        came = self.published / own.name
        return came if came.exists() else own

    def read(self, run: PaperRun) -> Result | None:
        """Return a run's result, or None if there is none yet.

        Raises DataError for a file that was edited, or that belongs to another configuration.
        """
        path = self.path(run.key)
        if not path.exists():
            return None
        stored = _checked(path)
        _check_options(path, stored["options"], options_of(run.config))
        return stored

    def read_all(self, runs: Iterable[PaperRun]) -> dict[str, Result]:
        """Return the results that exist, by key.

        Raises DataError that names every file that `read` refuses.
        """
        sound: dict[str, Result] = {}
        refused: list[str] = []
        for run in runs:
            try:
                result = self.read(run)
            except DataError as error:
                refused.append(str(error))
                continue
            if result is not None:
                sound[run.key] = result
        if refused:
            raise DataError("\n".join(refused))
        return sound

    def write(self, run: PaperRun, values: Mapping[str, Any]) -> None:
        """Write a run's result, with its options, its command and its digest."""
        head = {"key": run.key, "command": run.command, "options": options_of(run.config)}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / f"{run.key}.json", head | dict(values))

    def all(self) -> list[Result]:
        """Return every undamaged result, of any table."""
        results: list[Result] = []
        folders = [folder for folder in (self.published, self.folder) if folder is not None]
        paths = {path.name: path for folder in folders for path in folder.glob("*.json")}
        for _, path in sorted(paths.items()):
            try:
                results.append(_checked(path))
            except DataError:
                continue  # the table that it belongs to refuses it
        return results


def _checked(path: Path) -> Result:
    """Return a result file's values.  DataError if it was edited or is of another key."""
    remedy = "; delete it and run again"
    try:
        values = unsealed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no result file, or was edited ({error}){remedy}") from None
    if values.get("key") != path.stem:
        raise DataError(f"{path} is the result of another run, {values.get('key')}{remedy}")
    return values


def _check_options(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise DataError if an option differs; options that only one of them has do not count."""
    before, now = flat(stored), flat(wanted)
    for key in before.keys() & now.keys():
        if before[key] != now[key]:
            raise DataError(
                f"{path} belongs to another configuration: {key} was {before[key]!r} and is "
                f"{now[key]!r} now; delete it and run again"
            )


def flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by dotted key."""
    by_key: dict[str, Any] = {}
    for name, value in options.items():
        own = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {"": value}
        by_key |= {f"{name}.{key}" if key else name: entry for key, entry in own.items()}
    return by_key


def collect(folder: Path, wall_seconds: float | None) -> Result:
    """Return the result of the finished run in `folder`.

    `wall_seconds` is None for a run that was interrupted, or shared its cores with others.
    """
    from leff.runs.folder import RunFolder

    run = RunFolder(folder)
    result, records, environment = run.result() or {}, run.records(), run.environment()
    clients = [client for record in records[1:] for client in record.clients]
    kept = ("task", "method", "metric", "failures", "download_bytes", "upload_bytes")
    facts = ("kind", "device", "python", "system", "versions", "split_moved", "split_redraws")
    return {
        **{name: result[name] for name in kept},
        "before": _without_texts(result["before"]),
        "after": _without_texts(result["after"]),
        "rounds": [
            {name: getattr(record, name) for name in ("round", "loss", "metric", "train_loss")}
            for record in records
        ],
        "client_bytes": max(client.state_bytes for client in clients),
        "round_seconds": sum(record.seconds or 0.0 for record in records[1:]),
        "wall_seconds": wall_seconds,
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        **{name: environment[name] for name in facts},
        "digests": {name: v for name, v in environment.items() if name.endswith("_digest")},
    }


def _without_texts(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in measured.items() if key != "texts"}


def hardware() -> dict[str, Any]:
    """Return what a run's speed depends on: processor, its cores, GPUs."""
    import torch
    from joblib import cpu_count

    cores = min(cpu_count(), os.cpu_count() or 1)  # those that this process may use
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"processor": _processor(), "cores": cores, "gpus": gpus}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
