"""`leff export`: a run's model in another form."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, print_json
from leff.errors import ConfigError


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.")],
    merged: Annotated[
        Path | None,
        typer.Option(help="A new folder for the whole model, as transformers reads it."),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(help="A new folder for the adapter, as peft reads it (runs of adapters)."),
    ] = None,
    difference: Annotated[
        Path | None,
        typer.Option(help="A new .safetensors file for what the run changed in each tensor."),
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="A new .gguf file for llama.cpp (Llama, Qwen, GPT-2).")
    ] = None,
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="REPO", help="A repository, such as me/walks, to upload the model to."
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, float16 or bfloat16; with --gguf also q8_0.")
    ] = "float32",
    public: Annotated[
        bool, typer.Option("--public", help="With --hub: a new repository is for everybody.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run's model in another form: give one of the places."""
    from leff import api
    from leff.report.live import bytes_text

    if public and hub is None:
        raise ConfigError("--public is for --hub")
    places = {"merged": merged, "adapter": adapter, "difference": difference, "gguf": gguf}
    written = api.export(run, **places, hub=hub, dtype=dtype, private=not public)
    if as_json:
        return print_json(written)
    more = [f"{key} {written[key]}" for key in ("rank", "tensors") if key in written]
    more += [bytes_text(written["bytes"])] if "bytes" in written else []
    typer.echo(written["place"] + (f"  ({', '.join(more)})" if more else ""))
    return None
