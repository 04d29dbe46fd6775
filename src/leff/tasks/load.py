"""Loads tasks from a folder, from the hub, or from your own files.

    python -c "from leff.tasks.load import load_task; print(load_task('sample').train[0])"

A public task comes from the `folder` that is given.  Without one, it comes from the folder that the
environment variable ``LEFF_DATA`` names, if that holds the task, and else from the Hugging Face
hub.  A folder has the compact layout (``e2e/train.parquet``, ``glue/sst2/dev.parquet``, ...) or the
files as their authors published them.  It may be the root of all tasks or the task's own folder.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from leff.errors import ConfigError, nearest
from leff.files import expanded

if TYPE_CHECKING:
    from leff.tasks.task import Task

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
PUBLIC = {  # name -> module
    **{name: name for name in ("e2e", "webnlg")},
    **dict.fromkeys(("mmlu", "mmlu_auxiliary"), "mmlu"),
    **dict.fromkeys(GLUE, "glue"),
}
OWN = ("text", "table")


def known_tasks() -> tuple[str, ...]:
    """Return the names that `load_task` takes."""
    return ("sample", *PUBLIC, *OWN)


def load_task(
    name: str,
    folder: Path | str | None = None,
    *,
    train: Path | str | Sequence[Path | str] | None = None,
    validation: Path | str | None = None,
    test: Path | str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: str | None = None,
    labels: Sequence[str] = (),
    labelled: bool = True,
    hold_out: bool = True,
    group: str = "",
    seed: int = 0,
) -> "Task":
    """Load the task `name` and check every row.

    `folder` holds a public task's files.  `train`, `validation` and `test` are the user's own files
    (``text`` and ``table``), relative to `folder` if there is one.  `train` may also be a list, or
    a pattern such as ``sites/*.csv``; then the attribute ``file`` says which file a row is of.
    Without `validation`, a random tenth of `train` (of each of its files), drawn with `seed`, is
    held out, unless `hold_out` is false; rows with the same text stay together.  `columns` maps our
    column names (``input``, ``target``, ``references``, ``text``, ``text_pair``, ``label``, and
    those of `sources.conversations`) to the files' own.  `kind` overrules the kind that a table's
    columns suggest.  `labels` name its classes, in order; without them they are those of the train
    file.  A task whose examples are on devices has no train file, and needs `kind` (and `labels`).
    Without `labelled`, a table's labels are not looked at, as for proxy data.  `group` is as in
    `sources.table.load`.  `seed` also makes ``sample``.

    What was read otherwise than it is written, and what looks wrong but can be used, is logged.
    docs/look-up/data-files.md has the rules.

    Raises ConfigError for an unknown task or options that exclude each other, and DataError for a
    file, column, row or label that cannot be used.
    """
    if name not in known_tasks():
        raise ConfigError(f"no task is called {name!r}{nearest(name, known_tasks())}")
    given = {"train": train, "validation": validation, "test": test}
    files = {split: own_files(path, folder) for split, path in given.items() if path is not None}
    if files.keys() == {"test"}:
        raise ConfigError("a test file alone makes no task; name a validation file too")
    if name == "table":
        return _loader("table")(
            files,
            columns=columns or {},
            kind=kind,
            classes=labels,
            labelled=labelled,
            hold_out=hold_out,
            group=group,
            seed=seed,
        )
    if columns or kind or labels or group:
        raise ConfigError(
            f"columns, kind, labels and group describe a table, not {name!r}; use the task 'table'"
        )
    if name == "text":
        return (
            _loader("text")(files, hold_out=hold_out, seed=seed)
            if files
            else _loader("wikitext")(_path(folder))
        )
    if files:
        raise ConfigError(
            f"train, validation and test files are for the tasks 'text' and 'table', not {name!r}; "
            "name a folder, or use one of those"
        )
    if name == "sample":
        return _loader("sample")(seed=seed)
    return _loader(PUBLIC[name])(name, _path(folder))


def own_files(
    given: Path | str | Sequence[Path | str], folder: Path | str | None = None
) -> list[Path]:
    """Return the files that a path, a pattern or a list of these names, ordered by path.

    They are relative to `folder` if there is one.  A single path need not exist.  Raises
    ConfigError for an empty list, DataError for a pattern that no file fits.
    """
    from leff.tasks.sources.files import named_files

    each = [given] if isinstance(given, Path | str) else given
    if not each:
        raise ConfigError("the list of train files is empty; name one or more")
    return sorted(file for path in each for file in named_files(_under(folder, path)))


def _loader(module: str) -> Callable[..., "Task"]:
    return import_module(f"leff.tasks.sources.{module}").load


def _path(folder: Path | str | None) -> Path | None:
    return None if folder is None else expanded(folder)


def _under(folder: Path | str | None, path: Path | str) -> Path:
    return expanded(folder or ".") / expanded(path)
