"""`leff table` and `leff figure`: the paper's tables and figures with our values."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from pathlib import Path
from typing import Annotated, Any

import typer

from leff.cli.console import Json, errors, out, print_json

Number = Annotated[int, typer.Argument(metavar="N", help="Its number in the paper.")]
Size = Annotated[str, typer.Option(help="mini (2 CPU cores) or full (the paper's models).")]
Labels = list[str] | None
Rows = Annotated[Labels, typer.Option("--row", help="Only this row; may be repeated.")]
Columns = Annotated[Labels, typer.Option("--column", help="Only this column; may be repeated.")]
Points = Annotated[Labels, typer.Option("--point", help="Only this point; may be repeated.")]
SeedList = list[int] | None
Seeds = Annotated[SeedList, typer.Option("--seed", min=0, help="Only this seed; may be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs with time and memory.")]
NoRun = Annotated[bool, typer.Option("--no-run", help="Run nothing; show the existing results.")]
Jobs = Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for each GPU, or one.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep checkpoints and models of runs.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of data; else LEFF_DATA, else hub.")]
ModelName = Annotated[str | None, typer.Option("--model", help="Replaces the size's model.")]
Experiments = Annotated[Path | None, typer.Option(help="Folder of the tables' and figures' files.")]
Results = Annotated[Path, typer.Option(help="Folder of results, beside those of LEFF's own.")]
Runs = Annotated[Path, typer.Option(help="Folder of unfinished runs.")]


def table(
    number: Number,
    size: Size = "mini",
    rows: Rows = None,
    columns: Columns = None,
    seeds: Seeds = None,
    model: ModelName = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    no_run: NoRun = False,
    jobs: Jobs = 0,
    keep: Keep = False,
    experiments: Experiments = None,
    results: Results = Path("results"),
    runs: Runs = Path("runs/paper"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Table 5: also predict peak memory, in 1 to 2 minutes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a table of the paper: run what is missing, print our values with the paper's."""
    selection = size, rows, columns, None, seeds, model, data_dir
    places = experiments, results, runs
    actions = {"run": not no_run, "dry_run": dry_run, "jobs": jobs, "keep": keep}
    actions |= {"markdown": markdown, "memory": memory}
    _paper("table", number, selection, places, actions, as_json)


def figure(
    number: Number,
    size: Size = "mini",
    rows: Rows = None,
    columns: Columns = None,
    points: Points = None,
    seeds: Seeds = None,
    model: ModelName = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    no_run: NoRun = False,
    jobs: Jobs = 0,
    keep: Keep = False,
    experiments: Experiments = None,
    results: Results = Path("results"),
    runs: Runs = Path("runs/paper"),
    picture: Annotated[
        Path | None, typer.Option("--out", help="The PNG file; by default in this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a figure of the paper: run what is missing, draw our values with the paper's."""
    selection = size, rows, columns, points, seeds, model, data_dir
    places = experiments, results, runs
    actions = {"run": not no_run, "dry_run": dry_run, "jobs": jobs, "keep": keep}
    _paper("figure", number, selection, places, {**actions, "picture": picture}, as_json)


def _paper(
    word: str, number: int, selection: Any, places: Any, actions: dict[str, Any], as_json: bool
) -> None:
    """Make and print a table or figure; exit status 1 if one of its runs failed."""
    from leff.paper.cells import Selection
    from leff.paper.command import Actions, answer
    from leff.paper.study import Places

    size, *labels, model, data_dir = selection
    rows, columns, points, seeds = (tuple(own or ()) for own in labels)
    folder = data_dir and data_dir.absolute()
    asked = Selection(size, rows, columns, points, seeds, model, folder)

    def say(text: str) -> None:
        errors().print(text, markup=False, highlight=False, soft_wrap=True)

    result = answer(word, number, asked, Places(*places), Actions(**actions), say)
    print_json(result.rows) if as_json else result.show(out())
    result.check()
