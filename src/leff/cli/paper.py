"""`leff table` and `leff figure`: the paper's, ours beside them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from leff.cli.console import Json, errors, out, print_json

Number = Annotated[int, typer.Argument(metavar="N", help="Its number in the paper.")]
Size = Annotated[str, typer.Option(help="mini (2 CPU cores) or full (the paper's models).")]
Rows = Annotated[list[str] | None, typer.Option("--row", help="A row alone; repeatable.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="A column alone; repeatable.")]
Points = Annotated[list[str] | None, typer.Option("--point", help="A point alone; repeatable.")]
Seeds = Annotated[list[int] | None, typer.Option("--seed", min=0, help="A seed alone; repeatable.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the runs, their time and memory.")]
NoRun = Annotated[bool, typer.Option("--no-run", help="Show what is there, and what is missing.")]
Jobs = Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one a GPU, or one.")]
Keep = Annotated[bool, typer.Option("--keep", help="Keep checkpoints and models of the runs.")]
DataDir = Annotated[Path | None, typer.Option(help="Where the data is; else LEFF_DATA, else hub.")]
ModelName = Annotated[str | None, typer.Option("--model", help="In place of the size's model.")]
Experiments = Annotated[Path | None, typer.Option(help="Folder of the tables' and figures' files.")]
Results = Annotated[Path | None, typer.Option(help="Folder of results; else beside experiments.")]
Runs = Annotated[Path, typer.Option(help="Folder of the runs at work.")]


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
    results: Results = None,
    runs: Runs = Path("runs/paper"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Table 5: predict peaks too; takes a minute or two.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make one of the paper's tables: run what is missing, print ours beside the paper's."""
    selection = size, rows, columns, None, seeds, model, data_dir
    places = experiments, results, runs
    wishes = {"run": not no_run, "dry_run": dry_run, "jobs": jobs, "keep": keep}
    wishes |= {"markdown": markdown, "memory": memory}
    _paper("table", number, selection, places, wishes, as_json)


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
    results: Results = None,
    runs: Runs = Path("runs/paper"),
    picture: Annotated[
        Path | None, typer.Option("--out", help="The PNG; else among the results.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one of the paper's figures: run what is missing, draw ours beside the paper's."""
    selection = size, rows, columns, points, seeds, model, data_dir
    places = experiments, results, runs
    wishes = {"run": not no_run, "dry_run": dry_run, "jobs": jobs, "keep": keep}
    _paper("figure", number, selection, places, {**wishes, "picture": picture}, as_json)


def _paper(
    word: str, number: int, selection: Any, places: Any, wishes: dict[str, Any], as_json: bool
) -> None:
    """Answer for a table or figure, and exit with 1 if one of its runs failed."""
    from leff.paper.cells import Selection
    from leff.paper.command import Wishes, answer
    from leff.paper.study import Places

    size, *labels, model, data_dir = selection
    rows, columns, points, seeds = (tuple(own or ()) for own in labels)
    folder = data_dir and data_dir.absolute()
    asked = Selection(size, rows, columns, points, seeds, model, folder)

    def say(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    found = answer(word, number, asked, Places(*places), Wishes(**wishes), say)
    if as_json:
        print_json(found.rows)
    else:
        found.show(out)
    found.check()
