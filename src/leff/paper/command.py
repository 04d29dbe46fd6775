"""The commands `leff table` and `leff figure`: run what is missing, return what to print.

answer("table", 1, Selection(), Places(), Actions(dry_run=True), print)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leff.errors import ConfigError, ModelError, RunError
from leff.paper import tables
from leff.paper.captions import missing_lines, note_lines
from leff.paper.cells import Selection
from leff.paper.counts import count_cells, counts_markdown, print_counts
from leff.paper.study import Places, Study
from leff.paper.tables import NOTHING, title
from leff.report.live import bytes_text


@dataclass(frozen=True)
class Actions:
    """What to do with a table or figure."""

    run: bool = True
    dry_run: bool = False
    jobs: int = 0
    keep: bool = False
    markdown: bool = False
    memory: bool = False
    picture: Path | None = None


@dataclass(frozen=True)
class Answer:
    """The result: `rows` for scripts, `show` for people, and failures by the key of the run."""

    rows: list[dict[str, Any]]
    show: Callable[[Console], None]
    failures: Mapping[str, str]

    def check(self) -> None:
        """Raise RunError if a run failed."""
        if self.failures:
            reasons = "; ".join(dict.fromkeys(self.failures.values()))
            count, them = len(self.failures), "it" if len(self.failures) == 1 else "them"
            raise RunError(
                f"{count} run{'s' if count > 1 else ''} failed ({reasons}); the same command tries "
                f"{them} again"
            )


def answer(
    word: str,
    number: int,
    selection: Selection,
    places: Places,
    actions: Actions,
    say: Callable[[str], None],
) -> Answer:
    """Make a table or figure; `say` prints progress.

    Raises ConfigError, DataError or ModelError before any run.  `failures` has later errors.
    """
    if actions.picture is not None and actions.picture.suffix.lower() != ".png":
        raise ConfigError(f"--out must end in .png, got {actions.picture}")
    study = Study.open(f"{word}{number}", selection, places)
    if study.experiment.kind == "counts":
        _check_counted(selection, actions)
        return _counts(study, actions)
    if actions.memory:
        raise ConfigError(f"{word} {number} has no memory to count; --memory is for table 5")
    if actions.dry_run:
        rows = run_rows(study)
        return Answer(rows, lambda console: print_runs(console, study, rows), {})
    try:
        failures = study.fill(actions.jobs, actions.keep, say) if actions.run else {}
    except KeyboardInterrupt:
        raise RunError("interrupted; the same command goes on from the last round") from None
    values = study.values(_impossible(study) | failures)
    rows = [value.to_dict() for value in values]
    if word == "table":

        def show(console: Console) -> None:
            if actions.markdown:
                console.print(
                    tables.markdown(study, values), markup=False, highlight=False, soft_wrap=True
                )
            else:
                tables.print_table(console, study, values)

        return Answer(rows, show, failures)
    from leff.paper.figures import draw, figure_caption

    path = actions.picture or _picture(study)
    draw(study, values, path)

    def show_figure(console: Console) -> None:
        console.print(f"picture {path}", markup=False, highlight=False, soft_wrap=True)
        console.print(Text(figure_caption(study, values), style="dim"))
        for line in note_lines(values) + missing_lines(values):
            console.print(line, markup=False, highlight=False)

    return Answer(rows, show_figure, failures)


def _impossible(study: Study) -> dict[str, str]:
    """Return, by key, why runs are impossible; {} if a model cannot be looked up offline."""
    if not study.missing:
        return {}
    try:
        return study.impossible()
    except ModelError:
        return {}


def _check_counted(selection: Selection, actions: Actions) -> None:
    """Raise ConfigError for options that mean nothing for a table that is not run."""
    asked = {
        "--model": selection.model,
        "--seed": selection.seeds,
        "--dry-run": actions.dry_run,
        "--jobs": actions.jobs,
    }
    meant = [flag for flag, value in asked.items() if value]
    if meant:
        raise ConfigError(f"table 5 is counted, not run; leave out {', '.join(meant)}")


def _counts(study: Study, actions: Actions) -> Answer:
    cells = count_cells(study.experiment, study.common, study.selection, actions.memory)

    def show(console: Console) -> None:
        if actions.markdown:
            text = counts_markdown(study, cells)
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print_counts(console, study, cells)

    return Answer(cells, show, {})


def _picture(study: Study) -> Path:
    """Return the picture's path, in the working directory; a part has a name of its own."""
    part = "" if study.selection.whole else "-part"
    return Path(f"{study.experiment.name}-{study.selection.size}{part}.png")


def run_rows(study: Study) -> list[dict[str, Any]]:
    """Return a row for every run, with predicted seconds and bytes, for scripts."""
    return [
        {
            "key": run.key,
            "row": run.row,
            **({"point": run.point} if run.point else {}),
            "column": run.task,
            "seed": run.seed,
            "model": run.config.model.name,
            "method": run.config.method.name,
            "done": run.key in study.results,
            "seconds": forecast.seconds,
            "bytes": forecast.bytes,
            "basis": forecast.basis,
            "command": run.command,
        }
        for run in study.runs
        for forecast in [study.prediction(run)]
    ]


def print_runs(console: Console, study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the runs with predicted time and memory, and the total of what is left to do."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "row", "column", "seed", "state"):
        table.add_column(name)
    for name in ("time", "memory"):
        table.add_column(name, justify="right")
    for row in rows:
        named = " ".join(filter(None, (row["row"], row.get("point", ""))))
        state = "done" if row["done"] else "cannot be" if row["bytes"] is None else "to do"
        time = NOTHING if row["seconds"] is None else duration(row["seconds"])
        held = NOTHING if row["bytes"] is None else bytes_text(row["bytes"])
        table.add_row(row["key"], named, row["column"], str(row["seed"]), state, time, held)
    console.print(title(study), style="bold", markup=False, highlight=False)
    console.print(table)
    open_rows = [row for row in rows if not row["done"]]
    left = [row for row in open_rows if row["bytes"] is not None]
    timed = [row["seconds"] for row in left if row["seconds"] is not None]
    total = f"{len(left)} of {len(rows)} runs to do"
    if timed:
        known = "" if len(timed) == len(left) else f" for {len(timed)} of them"
        total += f", {duration(sum(timed))} one after another{known}"
    console.print(Text(f"{total}. Memory: clients at work and the server's model."))
    for basis in dict.fromkeys(row["basis"] for row in open_rows):
        console.print(
            Text(f"{'time from ' if 'finished run' in basis else ''}{basis}", style="dim")
        )
    for line in missing_lines(study.values()):
        if "(seed" not in line:  # the runs to do are listed above
            console.print(Text(line, style="yellow"))


def duration(seconds: float) -> str:
    """Return seconds for a reader: ``2 min``, ``1.5 h``."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
