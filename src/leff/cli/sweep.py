"""`leff sweep`: a grid of options, with several seeds."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from leff.cli.console import Json, errors, out, print_json
from leff.cli.runs import option
from leff.errors import ConfigError, RunError, shown
from leff.toml import parse_toml

HEAVY = ("checkpoints", "parts", "updates")  # of a finished run; its model stays


def sweep(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without one, the built-in run.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE,VALUE", help="Values of an option; may be repeated, for all pairs."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Seeds of each point.")] = 1,
    jobs: Annotated[
        int, typer.Option(min=0, help="Runs at a time; 0: one for each GPU, or one.")
    ] = 0,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any option, for all runs."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Folder of the runs.")] = Path("runs/sweep"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep checkpoints of finished runs.")
    ] = False,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="Run nothing; show what is finished.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a grid of options with several seeds; mean and deviation, the best by validation.

    The same command goes on where it was interrupted, and runs only what is missing.
    """
    from leff.report.live import print_rows
    from leff.sweeps import grid as grids
    from leff.sweeps.workshop import Workshop
    from leff.sweeps.workshop import sweep as run_all

    asked = dict(map(values_of, grid or []))
    if len(asked) < len(grid or []):
        raise ConfigError("--grid has an option twice; give all its values at once")
    points = grids.grid_points(config, dict(map(option, options or [])), asked, seeds)
    runs = [run for point in points for run in point.runs]
    failures: dict[str, str] = {}
    if not no_run:
        workshop = Workshop(folder, jobs, keep, HEAVY)

        def say(text: str) -> None:
            errors().print(text, markup=False, highlight=False, soft_wrap=True)

        try:
            failures = run_all(runs, workshop, lambda run, path, seconds: None, say)
        except KeyboardInterrupt:
            raise RunError("interrupted; the same command goes on from the last round") from None
    rows = [grids.row(point, folder, failures) for point in points]
    best = grids.best(rows, seeds)
    if as_json:
        print_json({"rows": rows, "best": None if best is None else rows[best]})
    else:
        splits = {row["split"] for row in rows} - {None, "test"}
        last = f"{splits.pop()}, at the end" if splits else "test"
        print_rows(out(), [_shown(row, last, number == best) for number, row in enumerate(rows)])
    if failures:
        raise RunError(
            f"{len(failures)} of {len(runs)} runs failed (the first: "
            f"{next(iter(failures.values()))}); the same command tries them again"
        )


def _shown(row: dict[str, Any], last: str, best: bool) -> dict[str, Any]:
    """Return a row for people: a mean and its deviation in one cell; `last` heads ``test``."""
    hidden = {"validation", "validation_sd", "test", "test_sd", "split"}
    hidden |= {"folders", "failure", "megabytes"}
    cells = {name: value for name, value in row.items() if name not in hidden}
    for name, title in (("validation", "validation"), ("test", last)):
        mean, deviation = row[name], row[f"{name}_sd"]
        cells[title] = None if mean is None else f"{mean:.4f}"
        cells[title] = cells[title] if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
    megabytes = row["megabytes"]
    return {
        **cells,
        "MB down and up": None if megabytes is None else f"{megabytes:.1f}",
        "": "best by validation" if best else (row["failure"] and "failed"),
    }


def values_of(text: str) -> tuple[str, Sequence[Any]]:
    """Return the key and the values of ``key=value,value``; values are TOML, or else texts."""
    key, equals, listed = text.partition("=")
    if not equals or not listed.strip():
        raise ConfigError(f"--grid takes KEY=VALUE,VALUE, got {shown(text)}")
    try:
        parsed = parse_toml(f"values = [{listed}]")
    except ValueError:
        parsed = {}
    if parsed.keys() == {"values"}:
        return key.strip(), parsed["values"]
    return key.strip(), [option(f"{key}={value}")[1] for value in listed.split(",")]
