"""`leff score` and `leff mmlu`: measurements that need no run."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, errors, out, print_json


def score(
    references: Annotated[Path, typer.Argument(help="A line each; a blank line between inputs.")],
    hypotheses: Annotated[Path, typer.Argument(help="A line each.")],
    as_json: Json = False,
) -> None:
    """Score texts as the official E2E challenge scorer does, from files in its format."""
    from rich.text import Text

    from leff.report.live import print_rows
    from leff.tasks.metrics import nlg

    scores = nlg.score(*nlg.read_official(references, hypotheses))
    if as_json:
        return print_json({**scores.values, "notes": scores.notes})
    print_rows(out(), [{"metric": name, "value": value} for name, value in scores.values.items()])
    for name, note in scores.notes.items():
        out().print(Text(f"{name}: {note}", style="dim"))
    return None


def mmlu(
    model: Annotated[str, typer.Argument(help="A run's or a model's folder, or a hub id.")],
    shots: Annotated[int, typer.Option(help="Worked examples before a question, 0 to 5.")] = 5,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this subject; may be repeated.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Most questions of a subject; by default all.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the data.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts computed at a time.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure a causal model on MMLU: 57 subjects; the likeliest of the four answers counts."""
    from rich.progress import Progress
    from rich.text import Text

    from leff import api
    from leff.report.live import print_rows

    with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
        line = bar.add_task("questions", total=None)
        scores = api.mmlu(
            model,
            shots=shots,
            subjects=subject or (),
            examples=examples,
            folder=data_dir,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    if as_json:
        return print_json(scores)
    rows = [{"subject": name, **value} for name, value in scores["subjects"].items()]
    averages = {
        **scores["categories"],
        "mean of the subjects": scores["subject_mean"],
        "all questions": scores["accuracy"],
    }
    print_rows(out(), rows)
    out().print()
    print_rows(out(), [{"average": name, "accuracy": value} for name, value in averages.items()])
    for note in scores["notes"].values():
        out().print(Text(note, style="dim"))
    return None
