"""The command line: a thin layer over `leff.api`.

    leff run experiments/e2e.toml --set training.rounds=5

Exit status: 0 on success, 2 on wrong use, 1 on failure, with the error on standard error.  With
``--json`` standard output is one JSON value, and progress goes to standard error.
"""

import json
import logging
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from leff.errors import ConfigError, LeffError, RunError

app = typer.Typer(
    help="Federated fine-tuning of language models: each device trains the layers it can afford.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PIPE_WIDTH = 200  # a file or a pipe has no width of its own
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
Beams = Annotated[int, typer.Option(min=1, help="Beam search width; 1 is greedy.")]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Argument(help="A TOML file; without one, the built-in run.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="method.name, such as leff or fedlora.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="model.name: a hub id or a folder.")] = None,
    rounds: Annotated[int | None, typer.Option(help="training.rounds")] = None,
    seed: Annotated[int | None, typer.Option(help="seed")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the data is: data.folder and proxy.folder.")
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
    """Fine-tune a model over a federation of clients."""
    from leff import api
    from leff.config import load_config

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
    _show(lambda progress: api.run(checked, out=folder, progress=progress), as_json)


@app.command()
def resume(run: RunPath, as_json: Json = False) -> None:
    """Go on with a run that was cut off, to the result it would have had."""
    from leff import api

    _show(lambda progress: api.resume(run, progress=progress), as_json)


@app.command()
def evaluate(
    run: RunPath,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Test examples; without it, all.")
    ] = None,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Beam search width; without it, the run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run's model with every metric of its task."""
    from leff import api
    from leff.report.live import print_rows

    found = api.evaluate(run, examples=examples, beams=beams)
    if as_json:
        return _print_json({key: value for key, value in found.items() if key != "texts"})
    metrics = {"loss": found["loss"], **found["metrics"]}
    print_rows(out, [{found["split"]: name, "value": value} for name, value in metrics.items()])
    for name, note in found["notes"].items():
        out.print(Text(f"{name}: {note}", style="dim"))
    return None


@app.command()
def generate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's or a model's folder.")],
    inputs: Annotated[list[str] | None, typer.Argument(help="Inputs, one text for each.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one input a line.")] = None,
    beams: Beams = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    as_json: Json = False,
) -> None:
    """Write texts with a run's model."""
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
    texts = api.generate(run, wanted, beams=beams, max_new_tokens=max_new_tokens)
    if as_json:
        return _print_json([{"input": i, "output": o} for i, o in zip(wanted, texts, strict=True)])
    for text in texts:
        typer.echo(text)
    return None


@app.command("list")
def list_(
    root: Annotated[Path, typer.Argument(help="The folder of run folders.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs."""
    from leff.report.live import print_rows
    from leff.runs import list_runs

    if not root.is_dir() and root != Path("runs"):
        raise ConfigError(
            f"there is no folder {root}; runs go to runs/ unless --out says otherwise"
        )
    found = list_runs(root)
    if as_json:
        return _print_json(found)
    if not found:
        out.print(f"no run in {root}")
        return None
    return print_rows(out, found)


@app.command()
def config(
    path: Annotated[Path | None, typer.Argument(metavar="CONFIG")] = None, as_json: Json = False
) -> None:
    """Print every option with its value and what it is; the defaults, or a file's."""
    from leff.config import commented_toml, load_config

    checked = load_config(path)
    if as_json:
        return _print_json(checked.model_dump(mode="json"))
    typer.echo(commented_toml(checked), nl=False)
    return None


@app.command()
def plan(
    model: Annotated[str, typer.Argument(help="Hub id, folder, config.json, or a known name.")],
    method: Annotated[
        str, typer.Option(help="leff, fedavg, fedbitfit, fedlora, slora, flora, flexlora.")
    ] = "leff",
    layers: Annotated[
        int | None, typer.Option(help="Layers that the client trains (leff); 1 if not said.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="distil, drop or quantise (leff); by default a run's own.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="r of distil and drop.")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of the context: 32, 16, 8 or 4.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of adapters; the paper's 8.")] = None,
    base_bits: Annotated[
        int | None, typer.Option(help="Bits of the weights beside adapters: 32, 16, 8 or 4.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Examples of a step.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of an example.")] = None,
    labelled: Annotated[
        float, typer.Option(help="Share of the tokens that have a label (language models).")
    ] = 1.0,
    precision: Annotated[
        str | None, typer.Option(help="Of matrix products: float32 or bfloat16.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or adamw8bit.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Parts in which a batch is done, one after the other.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Layers run again in the backward pass.")
    ] = False,
    frozen_head: Annotated[
        bool, typer.Option("--frozen-head", help="A language model's own head does not train.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="Choose what fits: 2GB at the peak of a training step.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(help="Choose what fits: 50G operations in a training step.")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="A plan for every device class of this TOML file.")
    ] = None,
    device: Annotated[
        Path | None, typer.Option(help="A plan for one class: the file that leff profile wrote.")
    ] = None,
    device_class: Annotated[
        str | None, typer.Option("--class", help="The class of that file, if it has several.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Most time of a client's round, such as 30s.")
    ] = None,
    speed: Annotated[str | None, typer.Option(help="A device's speed: 50GFLOP/s.")] = None,
    down: Annotated[str | None, typer.Option(help="Its bandwidth down: 20Mbit/s.")] = None,
    up: Annotated[str | None, typer.Option(help="Its bandwidth up: 5Mbit/s.")] = None,
    examples: Annotated[
        int | None, typer.Option(help="Examples that a client trains on; the run's own number.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what a method trains, holds and computes on a client, without loading weights.

    With --memory or --flops, choose layers, context and a leaner step instead: the least error that
    fits, going by errors measured on other models.  With --fleet, --device, or --memory, --speed,
    --down and --up, also the seconds of a round.
    """
    from leff.config import load_config
    from leff.devices import asked_classes
    from leff.planning import chosen, predicted
    from leff.report.plans import print_choice, print_device_plans, print_plan
    from leff.units import parse_seconds

    given = {"context.name": context, "context.rate": rate, "context.bits": bits}
    leaner = {
        "training.accumulation": accumulation,
        "training.checkpointing": checkpointing or None,
    }
    step = {
        "training.batch_size": batch,
        "data.max_length": length,
        "training.precision": precision,
        "training.optimizer": optimizer,
        "model.train_head": False if frozen_head else None,
    }
    given, leaner, step = (
        {key: value for key, value in each.items() if value is not None}
        for each in (given, leaner, step)
    )
    numbers = {"layers": layers, "rank": rank, "base_bits": base_bits}
    counts = {key: value for key, value in numbers.items() if value is not None}
    checked = load_config(None, {**given, **leaner, **step})
    if not 0 < labelled <= 1:
        raise ConfigError(f"--labelled must be above 0 and at most 1, got {labelled}")
    values = {"memory": memory, "speed": speed, "down": down, "up": up}
    timed = {"--time": time, "--speed": speed, "--down": down, "--up": up, "--examples": examples}
    if fleet or device or device_class or any(value is not None for value in timed.values()):
        from leff import device_plans as plans

        if flops is not None:
            raise ConfigError("--flops says what --time and --speed say; leave it out")
        if method == "leff" and not given and not counts:
            fixed = None
        else:
            fixed = plans.Fixed(method, counts)
        seconds = None if time is None else parse_seconds(time)
        limit = plans.round_time(checked, seconds, examples)
        classes = asked_classes(fleet, device, device_class, values)
        result = plans.fleet_plan(model, checked, classes, limit, fixed)
        if fleet is None:
            ((name, only),) = result.pop("classes").items()
            result |= {"class": name, **only}
        return _print_json(result) if as_json else print_device_plans(out, result)
    if memory is None and flops is None:
        found = predicted(model, method, checked, labelled, **counts)
        return _print_json(found) if as_json else print_plan(out, found)
    if method != "leff" or given or counts or leaner:
        raise ConfigError(
            "--memory and --flops choose layers and context of leff; leave out --method, --layers, "
            "--context, --rate, --bits, --rank, --base-bits, --accumulation and --checkpointing"
        )
    choice = chosen(model, checked, memory, flops, labelled)
    return _print_json(choice) if as_json else print_choice(out, choice)


@app.command()
def profile(
    path: Annotated[Path, typer.Option("--out", help="Where the device's class is written.")] = (
        Path("device.toml")
    ),
    name: Annotated[str, typer.Option(help="The name of the class.")] = "device",
    server: Annotated[
        str | None,
        typer.Option(help="An http(s) address: downloaded from, and posted to, for the link."),
    ] = None,
    device: Annotated[str, typer.Option(help="As engine.device: auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="As engine.threads.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Calibration steps that are timed.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure this device: free memory, speed of a training step, and the link to a server."""
    from leff.profiling import measure_device, write_class
    from leff.report.plans import print_profile

    found = measure_device(device, threads=threads, repeats=repeats, server=server)
    write_class(path, name, found)
    result = {"class": name, "file": str(path), **found.to_dict()}
    return _print_json(result) if as_json else print_profile(out, result)


@app.command()
def score(
    references: Annotated[Path, typer.Argument(help="A reference a line, inputs a blank apart.")],
    hypotheses: Annotated[Path, typer.Argument(help="A hypothesis a line.")],
    as_json: Json = False,
) -> None:
    """Score texts as the official E2E challenge scorer does, on its text format."""
    from leff.metrics import nlg
    from leff.report.live import print_rows

    scores = nlg.score(*nlg.read_official(references, hypotheses))
    if as_json:
        return _print_json({**scores.values, "notes": scores.notes})
    print_rows(out, [{"metric": name, "value": value} for name, value in scores.values.items()])
    for name, note in scores.notes.items():
        out.print(Text(f"{name}: {note}", style="dim"))
    return None


@app.command()
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
        return _print_json(found)
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


Number = Annotated[int, typer.Argument(metavar="N", help="Its number in the paper.")]
Size = Annotated[str, typer.Option(help="mini (2 CPU cores) or full (the paper's models).")]
Rows = Annotated[list[str] | None, typer.Option("--row", help="A row alone; repeatable.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="A column alone; repeatable.")]
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


@app.command()
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
    as_json: Json = False,
) -> None:
    """Make one of the paper's tables: run what is missing, print ours beside the paper's."""
    selection = size, rows, columns, seeds, model, data_dir
    places = experiments, results, runs
    wishes = {"run": not no_run, "dry_run": dry_run, "jobs": jobs, "keep": keep}
    _paper("table", number, selection, places, {**wishes, "markdown": markdown}, as_json)


@app.command()
def figure(
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
    picture: Annotated[
        Path | None, typer.Option("--out", help="The PNG; else among the results.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one of the paper's figures: run what is missing, draw ours beside the paper's."""
    selection = size, rows, columns, seeds, model, data_dir
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

    size, rows, columns, seeds, model, data_dir = selection
    folder = data_dir and data_dir.absolute()
    labels = tuple(rows or ()), tuple(columns or ()), tuple(seeds or ())
    asked = Selection(size, *labels, model, folder)

    def say(text: str) -> None:
        errors.print(text, markup=False, highlight=False, soft_wrap=True)

    found = answer(word, number, asked, Places(*places), Wishes(**wishes), say)
    if as_json:
        _print_json(found.rows)
    else:
        found.show(out)
    found.check()


def _show(work: Any, as_json: bool) -> None:
    """Do `work(progress)`, show it live, and print the run's result."""
    from leff.report.live import LiveTable, print_result

    console = errors if as_json else out
    with LiveTable(console) as table:
        try:
            finished = work(table)
        except KeyboardInterrupt:
            if table.folder is None:
                raise
            raise RunError(
                f"interrupted; `leff resume {table.folder}` goes on from the last round"
            ) from None
    places = {name: str(getattr(finished, name)) for name in ("folder", "model", "picture")}
    if as_json:
        return _print_json({**places, **finished.result})
    return print_result(console, finished.result, places)


def _option(text: str) -> tuple[str, Any]:
    """Return the key and value of ``key=value``; the value is TOML, or else a string."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set takes KEY=VALUE, got {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _print_json(value: Any) -> None:
    from leff.durable import finite

    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


class _ToStandardError(logging.Handler):
    """Writes to what standard error is at that moment, so that a live table stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def main() -> None:
    """Run the command line and exit."""
    logging.basicConfig(format="%(levelname)s %(message)s", handlers=[_ToStandardError()])
    logging.getLogger("leff").setLevel(logging.INFO)
    try:
        app()
    except LeffError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except (OSError, MemoryError) as error:  # a full disk, say: a traceback would not help
        typer.echo(f"error: {error or 'out of memory'}", err=True)
        sys.exit(RunError.exit_status)
