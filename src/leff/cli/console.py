"""The two consoles that commands print to, and the option --json."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

PIPE_WIDTH = 200  # a file or a pipe has no width of its own
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
errors = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that are not finite become null."""
    from leff.files import finite

    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a mapping without one of its keys."""
    return {key: value for key, value in values.items() if key != name}
