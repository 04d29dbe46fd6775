"""The runs of a table or figure with what they will take, which `--dry-run` lists.

rows = run_rows(study)
print_runs(Console(), study, rows)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from leff.paper.captions import missing_lines
from leff.paper.layout import NOTHING, title
from leff.paper.study import Study
from leff.report.live import bytes_text


def run_rows(study: Study) -> list[dict[str, Any]]:
    """Return every run with predicted seconds and bytes, for scripts."""
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
            "seconds": told.seconds,
            "bytes": told.bytes,
            "basis": told.basis,
            "command": run.command,
        }
        for run in study.runs
        for told in [study.prediction(run)]
    ]


def print_runs(console: Console, study: Study, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the runs with predicted time and memory, and what is left to do in all."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "row", "column", "seed", "state"):
        table.add_column(name)
    for name in ("time", "memory"):
        table.add_column(name, justify="right")
    for row in rows:
        named = " ".join(filter(None, (row["row"], row.get("point", ""))))
        state = "done" if row["done"] else "cannot be" if row["seconds"] is None else "to do"
        time = NOTHING if row["seconds"] is None else duration(row["seconds"])
        held = NOTHING if row["bytes"] is None else bytes_text(row["bytes"])
        table.add_row(row["key"], named, row["column"], str(row["seed"]), state, time, held)
    console.print(title(study), style="bold", markup=False, highlight=False)
    console.print(table)
    open_rows = [row for row in rows if not row["done"]]
    left = [row for row in open_rows if row["seconds"] is not None]
    seconds = sum(row["seconds"] for row in left)
    jobs = "one after another; " if left else ""
    total = f"{len(left)} of {len(rows)} runs to do, {duration(seconds)} {jobs}".rstrip("; ")
    console.print(Text(f"{total}. Memory: clients at work and the server's model."))
    for basis in dict.fromkeys(row["basis"] for row in open_rows):
        console.print(
            Text(f"{'' if basis.startswith('cannot') else 'time from '}{basis}", style="dim")
        )
    for line in missing_lines(study.values()):
        if "(seed" not in line:  # what is merely to do is listed above
            console.print(Text(line, style="yellow"))


def duration(seconds: float) -> str:
    """Return seconds for a reader: ``2 min``, ``1.5 h``."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
