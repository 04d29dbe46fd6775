"""`leff plan` and `leff profile`: what a method needs, and what a device has."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, out, print_json


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
    from leff import api
    from leff.report.plans import print_any_plan

    options = {
        "context.name": context,
        "context.rate": rate,
        "context.bits": bits,
        "training.accumulation": accumulation,
        "training.checkpointing": checkpointing or None,
        "training.batch_size": batch,
        "data.max_length": length,
        "training.precision": precision,
        "training.optimizer": optimizer,
        "model.train_head": False if frozen_head else None,
    }
    result = api.plan(
        model,
        method=method,
        layers=layers,
        rank=rank,
        base_bits=base_bits,
        memory=memory,
        flops=flops,
        fleet=fleet,
        device=device,
        device_class=device_class,
        time=time,
        speed=speed,
        down=down,
        up=up,
        examples=examples,
        labelled=labelled,
        **{key: value for key, value in options.items() if value is not None},
    )
    return print_json(result) if as_json else print_any_plan(out(), result)


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
