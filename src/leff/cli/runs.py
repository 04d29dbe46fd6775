"""`leff run`, `resume`, `evaluate`, `generate`, `list` and `config`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from leff.cli.console import Json, errors, out, print_json
from leff.errors import ConfigError, RunError, shown
from leff.toml import parse_toml

if TYPE_CHECKING:
    from leff.api import Run
    from leff.report.live import LiveTable

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Beams = Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy.")]


def run(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without one, the built-in run.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="method.name, such as leff or fedlora.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="model.name: a hub id, a model's folder, or a run's.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="training.rounds")] = None,
    seed: Annotated[int | None, typer.Option(help="seed")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the data: data.folder and proxy.folder.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any option; see `leff config`."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; by default a new one in runs/.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model with a federation of clients."""
    from leff import api
    from leff.runs.config import load_config

    named = {
        "method.name": method,
        "model.name": model,
        "training.rounds": rounds,
        "seed": seed,
        "data.folder": data_dir and data_dir.absolute(),
        "proxy.folder": data_dir and data_dir.absolute(),
    }
    overrides = {key: value for key, value in named.items() if value is not None}
    overrides |= dict(map(_option, options or []))
    checked = load_config(config, overrides)

    def work(progress: "LiveTable") -> "Run":
        return api.run(checked, out=folder, progress=progress)

    _show(work, as_json)


def resume(run: RunPath, as_json: Json = False) -> None:
    """Continue an interrupted run, to the result it would have had."""
    from leff import api

    def work(progress: "LiveTable") -> "Run":
        return api.resume(run, progress=progress)

    _show(work, as_json)


def evaluate(
    run: RunPath,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Number of test examples; by default all.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Beam width; by default the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's model with every metric of its task."""
    from leff import api
    from leff.report.live import print_rows

    measured = api.evaluate(run, examples=examples, beams=beams)
    if as_json:
        return print_json({key: value for key, value in measured.items() if key != "texts"})
    metrics = {"loss": measured["loss"], **measured["metrics"]}
    print_rows(out, [{measured["split"]: name, "value": value} for name, value in metrics.items()])
    for name, note in measured["notes"].items():
        out.print(Text(f"{name}: {note}", style="dim"))
    return None


def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's or a model's folder.")],
    inputs: Annotated[list[str] | None, typer.Argument(help="Inputs; each gets a text.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with an input on each line.")] = None,
    beams: Beams = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    prompt: Annotated[
        str | None,
        typer.Option(help="The prompt, with {input} in it; by default the model's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate texts with a run's model."""
    from leff import api
    from leff.errors import DataError

    wanted = list(inputs or [])
    if file is not None:
        try:
            with file.open(encoding="utf-8") as lines:
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


def list_runs(
    root: Annotated[Path, typer.Argument(help="The folder that holds run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List the runs in a folder."""
    from leff.report.live import print_rows
    from leff.runs import folder as runs

    if not root.is_dir() and root != Path("runs"):
        raise ConfigError(
            f"there is no folder {root}; runs go to runs/ unless --out says otherwise"
        )
    summaries = runs.list_runs(root)
    if as_json:
        return print_json(summaries)
    if not summaries:
        out.print(f"no run in {root}")
        return None
    return print_rows(out, summaries)


def config(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG")] = None, as_json: Json = False
) -> None:
    """Print every option with its value and description; a file's values, or the defaults."""
    from leff.runs.config import load_config
    from leff.runs.toml import commented_toml

    checked = load_config(path)
    if as_json:
        return print_json(checked.model_dump(mode="json"))
    typer.echo(commented_toml(checked), nl=False)
    return None


def _show(work: "Callable[[LiveTable], Run]", as_json: bool) -> None:
    """Call `work(progress)`, show its progress, and print the run's result."""
    from leff.engines.processes import terminable
    from leff.report.live import LiveTable, print_result

    console = errors if as_json else out
    with terminable(), LiveTable(console) as table:
        try:
            finished = work(table)
        except KeyboardInterrupt:
            if table.folder is None:
                raise RunError(
                    "interrupted before the first round; give the same command again"
                ) from None
            raise RunError(
                f"interrupted; `leff resume {table.folder}` goes on from the last round"
            ) from None
    places = {name: str(getattr(finished, name)) for name in ("folder", "model", "picture")}
    if as_json:
        return print_json({**places, **finished.result})
    return print_result(console, finished.result, places)


def _option(text: str) -> tuple[str, Any]:
    """Return the key and value of ``key=value``; the value is TOML, or else a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, got {shown(text)}")
    try:
        parsed = parse_toml(f"value = {value}")
    except ValueError:
        parsed = {}
    # more than one key: the value has a line break
    return key.strip(), parsed["value"] if parsed.keys() == {"value"} else value.strip()
