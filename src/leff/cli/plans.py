"""`leff plan` and `leff profile`: what a method needs, and what a device has."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, out, print_json
from leff.errors import ConfigError


def plan(
    model: Annotated[str, typer.Argument(help="Hub id, folder, config.json, or a known name.")],
    method: Annotated[
        str, typer.Option(help="leff, fedavg, fedbitfit, fedlora, slora, flora, flexlora.")
    ] = "leff",
    layers: Annotated[
        int | None, typer.Option(help="Layers that the client trains (leff); by default 1.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="distil, drop or quantise (leff); by default a run's.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="r of distil and drop.")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of the context: 32, 16, 8 or 4.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of adapters (the paper: 8).")] = None,
    base_bits: Annotated[
        int | None, typer.Option(help="Bits of the frozen weights under adapters: 32, 16, 8, 4.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Examples in a step.")] = None,
    length: Annotated[int | None, typer.Option(help="Tokens of an example.")] = None,
    labelled: Annotated[
        float, typer.Option(help="Share of tokens that have a label (language models).")
    ] = 1.0,
    precision: Annotated[
        str | None, typer.Option(help="Precision of matrix products: float32 or bfloat16.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or adamw8bit.")] = None,
    accumulation: Annotated[
        int | None, typer.Option(help="Parts in which a batch is done; more if memory needs it.")
    ] = None,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Always run layers again in the backward pass.")
    ] = False,
    frozen_head: Annotated[
        bool, typer.Option("--frozen-head", help="Do not train a language model's untied head.")
    ] = False,
    memory: Annotated[
        str | None, typer.Option(help="Choose what fits this peak of a training step, such as 2GB.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(help="Choose what fits these operations in a step, such as 50G.")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="Plan for every device class in this TOML file.")
    ] = None,
    device: Annotated[
        Path | None, typer.Option(help="Plan for the class in this file, written by leff profile.")
    ] = None,
    device_class: Annotated[
        str | None, typer.Option("--class", help="The class in that file, if it has several.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Time limit of a client's round, such as 30s.")
    ] = None,
    speed: Annotated[str | None, typer.Option(help="Device speed, such as 50GFLOP/s.")] = None,
    down: Annotated[str | None, typer.Option(help="Its download rate, such as 20Mbit/s.")] = None,
    up: Annotated[str | None, typer.Option(help="Its upload rate, such as 5Mbit/s.")] = None,
    examples: Annotated[
        int | None, typer.Option(help="Examples of a client; by default an even share of a run's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count what a method trains, stores and computes on a client, without loading weights.

    With --memory or --flops, choose layers, context and step instead: those of least error that
    fit.  Errors are assumed from other models.  With --fleet, --device, or --memory with --speed,
    --down and --up, the seconds of a round are predicted too.  Memory is a step's peak.
    """
    from leff.capacity.fleet_file import asked_classes
    from leff.report.plans import print_choice, print_device_plans, print_plan
    from leff.runs.config import load_config
    from leff.runs.plans import check_used, choose_plan, predicted
    from leff.units import parse_seconds

    given = {"context.name": context, "context.rate": rate, "context.bits": bits}
    step = {
        "training.accumulation": accumulation,
        "training.checkpointing": checkpointing or None,
        "training.batch_size": batch,
        "data.max_length": length,
        "training.precision": precision,
        "training.optimizer": optimizer,
        "model.train_head": False if frozen_head else None,
    }
    given, step = (
        {key: value for key, value in each.items() if value is not None} for each in (given, step)
    )
    numbers = {"layers": layers, "rank": rank, "base_bits": base_bits}
    counts = {key: value for key, value in numbers.items() if value is not None}
    if memory is None and flops is None:
        check_used(method, {**given, **counts})
    checked = load_config(None, {**given, **step})
    if not 0 < labelled <= 1:
        raise ConfigError(f"--labelled must be above 0 and at most 1, got {labelled}")
    values = {"memory": memory, "speed": speed, "down": down, "up": up}
    timed = {"--time": time, "--speed": speed, "--down": down, "--up": up, "--examples": examples}
    if fleet or device or device_class or any(value is not None for value in timed.values()):
        from leff.runs import plans

        if flops is not None:
            raise ConfigError("--flops says what --time and --speed say; leave it out")
        choose = method == "leff" and not given and not counts
        asked = None if choose else plans.Asked(method, counts)
        seconds = None if time is None else parse_seconds(time)
        limit = plans.round_time(checked, seconds, examples)
        classes = asked_classes(fleet, device, device_class, values)
        result = plans.fleet_plan(model, checked, classes, limit, asked, labelled)
        if fleet is None:
            ((name, only),) = result.pop("classes").items()
            result |= {"class": name, **only}
        return print_json(result) if as_json else print_device_plans(out(), result)
    if memory is None and flops is None:
        costs = predicted(model, method, checked, labelled, **counts)
        return print_json(costs) if as_json else print_plan(out(), costs)
    if method != "leff" or given or counts:
        raise ConfigError(
            "--memory and --flops choose layers and context of leff; leave out --method, --layers, "
            "--context, --rate, --bits, --rank and --base-bits"
        )
    choice = choose_plan(model, checked, memory, flops, labelled)
    return print_json(choice) if as_json else print_choice(out(), choice)


def profile(
    path: Annotated[Path, typer.Option("--out", help="File to write the device's class to.")] = (
        Path("device.toml")
    ),
    name: Annotated[str, typer.Option(help="The name of the class.")] = "device",
    server: Annotated[
        str | None,
        typer.Option(help="http(s) address to download from and post to, to time the link."),
    ] = None,
    device: Annotated[str, typer.Option(help="As engine.device: auto, cpu, cuda, mps")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="As engine.threads.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Calibration steps to time.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure this device: free memory, speed of a training step, and the link to a server."""
    from leff.capacity.profile import measure_device, write_class
    from leff.report.plans import print_profile

    measured = measure_device(device, threads=threads, repeats=repeats, server=server)
    write_class(path, name, measured)
    result = {"class": name, "file": str(path), **measured.to_dict()}
    return print_json(result) if as_json else print_profile(out(), result)
