"""Runs beside each other: the options in which they differ, and what came of each.

compare([Path("runs/a"), Path("runs/b")])["training.rounds"]      # [4, 8]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.runs.folder import RunFolder
from leff.runs.option_types import Section
from leff.runs.options import RunConfig

FIGURES = ("loss", "metric", "train_loss")  # of the last round


def compare(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """Return the options that are not the same in all runs, and the figures, a value for each run.

    The figures are ``rounds`` (done), those of the last round, each metric at the end after the
    name of its split (test, or validation without a test file; None for a run that is not
    finished), ``download_bytes`` and ``upload_bytes`` of all rounds, and ``seconds``.  Raises
    ConfigError for fewer than two runs and for what is no run, CheckpointError for a damaged one.
    """
    if len(paths) < 2:
        raise ConfigError(f"--compare takes two runs or more, got {len(paths)}")
    opened = [RunFolder.open(path) for path in paths]
    options = [dict(_flat(config)) for _, config in opened]
    rows = {key: [each.get(key) for each in options] for key in options[0]}
    rows = {key: values for key, values in rows.items() if values.count(values[0]) < len(values)}
    figures = [_figures(folder) for folder, _ in opened]
    names = dict.fromkeys(name for each in figures for name in each)
    return rows | {name: [each.get(name) for each in figures] for name in names}


def _flat(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Yield every option by its dotted key."""
    for name in RunConfig.model_fields:
        own = getattr(config, name)
        if isinstance(own, Section):
            values = own.model_dump(mode="json").items()
            yield from ((f"{name}.{key}", value) for key, value in values)
        else:
            yield name, own


def _figures(folder: RunFolder) -> dict[str, Any]:
    records, result = folder.records(), folder.result()
    last = records[-1] if records else None
    after: dict[str, Any] = {"metrics": {}} if result is None else result["after"]
    return {
        "rounds": 0 if last is None else last.round,
        **{name: getattr(last, name, None) for name in FIGURES},
        **{f"{after['split']} {name}": value for name, value in after["metrics"].items()},
        "download_bytes": sum(record.download_bytes or 0 for record in records),
        "upload_bytes": sum(record.upload_bytes or 0 for record in records),
        "seconds": round(sum(record.seconds or 0.0 for record in records), 1),
    }
