"""`leff run`, `resume`, `list` and `config`."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leff.cli.console import Json, errors, out, print_json, without
from leff.errors import ConfigError, RunError, shown
from leff.extras import need
from leff.toml import parse_toml

if TYPE_CHECKING:
    from leff.api import Run
    from leff.runs.federation import Progress

Texts = Annotated[bool, typer.Option("--texts", help="With --json: the generated texts too.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Track = Annotated[
    str | None,
    typer.Option(help="Send every round to tensorboard, trackio, wandb or mlflow too."),
]

Page = Annotated[
    bool, typer.Option("--show", help="Open a page in a browser that follows the run: leff show.")
]


def run(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without one, the built-in run.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Go on from a finished run: its options, and its model."
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="method.name, such as leff or fedlora.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="model.name: a hub id, a model's folder, a run's, or a GGUF file."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="engine.name: local, flower (devices on a network), flower-simulation."),
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
    track: Track = None,
    page: Page = False,
    texts: Texts = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model with a federation of clients."""
    from leff import api
    from leff.runs.config import load_config
    from leff.runs.folder import continued

    named = {
        "method.name": method,
        "model.name": model,
        "engine.name": engine,
        "training.rounds": rounds,
        "seed": seed,
        "data.folder": data_dir and data_dir.absolute(),
        "proxy.folder": data_dir and data_dir.absolute(),
    }
    overrides = {key: value for key, value in named.items() if value is not None}
    overrides |= dict(map(option, options or []))
    if start is not None:
        if config is not None or model is not None:
            raise ConfigError("--from says which options and which model; leave CONFIG and --model")
        config, overrides = continued(start, overrides)
    checked = load_config(config, overrides)

    def work(progress: "Progress") -> "Run":
        return api.run(checked, out=folder, progress=progress, track=track)

    _show(work, page, as_json, texts)


def resume(
    run: RunPath,
    track: Track = None,
    page: Page = False,
    texts: Texts = False,
    as_json: Json = False,
) -> None:
    """Continue an interrupted run, to the result it would have had."""
    from leff import api

    def work(progress: "Progress") -> "Run":
        return api.resume(run, progress=progress, track=track)

    _show(work, page, as_json, texts)


def list_runs(
    places: Annotated[
        list[Path] | None,
        typer.Argument(help="A folder that holds run folders, runs/ by default; or runs."),
    ] = None,
    compared: Annotated[
        bool, typer.Option("--compare", help="Set the named runs beside each other.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the runs in a folder, or compare some."""
    from leff.report.live import print_rows
    from leff.runs import folder as runs

    if compared:
        return _compare(places or [], as_json)
    if places and len(places) > 1:
        raise ConfigError("give one folder that holds runs; --compare takes several runs")
    root = places[0] if places else Path("runs")
    if not root.is_dir() and root != Path("runs"):
        raise ConfigError(
            f"there is no folder {root}; runs go to runs/ unless --out says otherwise"
        )
    summaries = runs.list_runs(root)
    if as_json:
        return print_json(summaries)
    if not summaries:
        out().print(f"no run in {root}")
        return None
    return print_rows(out(), summaries)


def _compare(paths: list[Path], as_json: bool) -> None:
    from leff import api
    from leff.report.live import print_rows

    found = api.compare(paths)
    if as_json:
        return print_json({"runs": list(map(str, paths)), **found})
    names = [str(path) for path in paths]
    rows = [{"": key, **dict(zip(names, values, strict=True))} for key, values in found.items()]
    return print_rows(out(), rows)


def config(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG")] = None,
    as_json: Json = False,
    as_schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of such a file, for editors.")
    ] = False,
) -> None:
    """Print every option with its value and description; a file's values, or the defaults."""
    from leff.runs.config import load_config
    from leff.runs.schema import schema
    from leff.runs.toml import commented_toml

    if as_schema:
        return print_json(schema())
    checked = load_config(path)
    if as_json:
        return print_json(checked.model_dump(mode="json"))
    typer.echo(commented_toml(checked), nl=False)
    return None


def _show(work: "Callable[[Progress], Run]", page: bool, as_json: bool, texts: bool) -> None:
    """Call `work(progress)`, show its progress, in a `page` too, and print the run's result.

    As JSON it has the generated texts only with `texts`: there may be thousands.
    """
    if page:
        need("show", "--show")
    from leff.engines.processes import terminable
    from leff.report.live import LiveTable, print_result

    console = errors() if as_json else out()
    with terminable(), ExitStack() as stack:
        table = stack.enter_context(LiveTable(console))
        progress: Progress = table
        if page:
            from leff.report.tracking import Together
            from leff.show.beside import PageBeside

            say = partial(console.print, highlight=False, soft_wrap=True)
            progress = Together([table, stack.enter_context(PageBeside(say))])
        try:
            finished = work(progress)
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
        result = dict(finished.result)
        if not texts:
            result |= {when: without(result[when], "texts") for when in ("before", "after")}
        return print_json({**places, **result})
    return print_result(console, finished.result, places)


def option(text: str) -> tuple[str, Any]:
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
