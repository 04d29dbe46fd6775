"""`leff score` and `leff mmlu`: measurements that need no run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from leff.cli.console import Json, errors, out, print_json


def score(
    references: Annotated[Path, typer.Argument(help="A reference a line, inputs a blank apart.")],
    hypotheses: Annotated[Path, typer.Argument(help="A hypothesis a line.")],
    as_json: Json = False,
) -> None:
    """Score texts as the official E2E challenge scorer does, on its text format."""
    from leff.report.live import print_rows
    from leff.tasks.metrics import nlg

    scores = nlg.score(*nlg.read_official(references, hypotheses))
    if as_json:
        return print_json({**scores.values, "notes": scores.notes})
    print_rows(out, [{"metric": name, "value": value} for name, value in scores.values.items()])
    for name, note in scores.notes.items():
        out.print(Text(f"{name}: {note}", style="dim"))
    return None


def mmlu(
    model: Annotated[str, typer.Argument(help="A run's or a model's folder, or a hub id.")],
    shots: Annotated[int, typer.Option(help="Worked examples before a question, 0 to 5.")] = 5,
    subject: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This subject; several are fine.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Questions of a subject at most; without it, all.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data is.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts computed at a time.")] = 8,
    as_json: Json = False,
) -> None:
    """Measure a causal model on MMLU: questions of 57 subjects, by the likeliest answer."""
    from rich.progress import Progress

    from leff import api
    from leff.report.live import print_rows

    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        line = bar.add_task("questions", total=None)
        found = api.mmlu(
            model,
            shots=shots,
            subjects=subject or (),
            examples=examples,
            folder=data_dir,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    if as_json:
        return print_json(found)
    rows = [{"subject": name, **value} for name, value in found["subjects"].items()]
    averages = {
        **found["categories"],
        "mean of the subjects": found["subject_mean"],
        "all questions": found["accuracy"],
    }
    print_rows(out, rows)
    out.print()
    print_rows(out, [{"average": name, "accuracy": value} for name, value in averages.items()])
    for note in found["notes"].values():
        out.print(Text(note, style="dim"))
    return None
