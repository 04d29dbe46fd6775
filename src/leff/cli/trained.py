"""`leff evaluate`, `predict` and `generate`: what a trained model can do."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from leff.cli.console import Json, out, print_json, without
from leff.errors import ConfigError, DataError

Beams = Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy.")]
AnyModel = Annotated[str, typer.Argument(metavar="RUN", help="A run's or a model's folder.")]


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    examples: Annotated[
        int | None, typer.Option(min=1, help="Number of test examples; by default all.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Beam width; by default the run's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A table to measure on, in place of the test split.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's model with every metric of its task."""
    from rich.text import Text

    from leff import api
    from leff.report.live import print_confusion, print_rows

    measured = api.evaluate(run, examples=examples, beams=beams, data=data)
    if as_json:
        return print_json(without(measured, "texts"))
    metrics = {"loss": measured["loss"], **measured["metrics"]}
    print_rows(
        out(), [{measured["split"]: name, "value": value} for name, value in metrics.items()]
    )
    for name, note in measured["notes"].items():
        out().print(Text(f"{name}: {note}", style="dim"))
    print_confusion(out(), measured.get("confusion", {}))
    return None


def predict(
    run: AnyModel,
    file: Annotated[Path, typer.Argument(help="A table with a column of texts.")],
    table: Annotated[
        Path | None, typer.Option("--out", metavar="CSV", help="Write a CSV file; print nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say the class, or the score, of every text in a file."""
    from leff import api
    from leff.runs.predict import read_rows_of

    if table is not None and (table.suffix.lower() != ".csv" or not table.parent.is_dir()):
        raise ConfigError(f"--out must end in .csv and be in a folder that exists, got {table}")
    texts, columns = read_rows_of(run, file)
    answers = api.predict(run, texts["text"], texts.get("text_pair"))
    values = zip(*columns.values(), strict=True)
    rows = [
        dict(zip(columns, row, strict=True)) | {_new_name(n, columns): v for n, v in answer.items()}
        for row, answer in zip(values, answers, strict=True)
    ]
    if table is not None:
        return _write_csv(table, rows)
    if as_json:
        return print_json(rows)
    for text, answer in zip(texts["text"], answers, strict=True):
        cells = [_cell(value, 4) for value in answer.values()]
        typer.echo("\t".join([*cells, " ".join(text.split())[:80]]))
    return None


def _cell(value: Any, digits: int | None = None) -> Any:
    """Return a value of an answer for a table; names have bars between them, [] is none."""
    if isinstance(value, list):
        return "|".join(map(str, cast("list[Any]", value))) or "[]"
    if isinstance(value, dict):
        shares = cast("dict[str, float]", value).items()
        return " ".join(f"{name}={_cell(share, digits)}" for name, share in shares)
    return f"{value:.{digits}f}" if isinstance(value, float) and digits else value


def _new_name(name: str, columns: Mapping[str, Any]) -> str:
    """Return the name of an answer's column, beside those that the file has."""
    return f"predicted_{name}" if name in columns else name


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def generate(
    run: AnyModel,
    inputs: Annotated[list[str] | None, typer.Argument(help="Inputs; each gets a text.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with an input on each line.")] = None,
    beams: Beams = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    prompt: Annotated[
        str | None,
        typer.Option(help="The prompt, with {input} in it; by default the model's own."),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Talk to the model: a question on each line of the standard input; an empty line "
            "begins again.",
        ),
    ] = False,
    system: Annotated[str, typer.Option(help="With --chat: what the model is told first.")] = "",
    as_json: Json = False,
) -> None:
    """Generate texts with a run's model."""
    from leff import api

    if chat:
        if inputs or file or prompt or beams != 1:
            raise ConfigError("--chat reads questions from the standard input; give it alone")
        return _talk(run, max_new_tokens, system, as_json)
    if system:
        raise ConfigError("--system is for --chat")
    wanted = list(inputs or [])
    if file is not None:
        try:
            with file.open(encoding="utf-8-sig") as lines:
                wanted += [line.rstrip("\n") for line in lines]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
    if not wanted:
        raise ConfigError("there is nothing to generate from; give inputs, or --file")
    texts = api.generate(run, wanted, beams=beams, max_new_tokens=max_new_tokens, prompt=prompt)
    if as_json:
        return print_json([{"input": i, "output": o} for i, o in zip(wanted, texts, strict=True)])
    for text in texts:
        typer.echo(text)
    return None


def _talk(run: str, max_new_tokens: int, system: str, as_json: bool) -> None:
    """Answer each line of the standard input, until it ends."""
    from leff.runs.talk import Talk

    talk, asks = Talk(run, max_new_tokens, system), sys.stdin.isatty()
    said: list[list[dict[str, str]]] = []
    while True:
        if asks:
            typer.echo("> ", nl=False)
        line = _line()
        if line.strip():
            answer = talk.say(line.strip())
            if not as_json:
                typer.echo(answer)
            continue
        said += [talk.messages] if talk.begun else []
        talk.begin_again()
        if not line:
            break
    if as_json:
        print_json(said)


def _line() -> str:
    """Return the next line of the standard input.  DataError if it is not UTF-8."""
    try:
        line = sys.stdin.readline()
        line.encode()
    except UnicodeError:
        raise DataError("the standard input is not UTF-8; write questions in UTF-8") from None
    return line
