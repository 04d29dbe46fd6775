"""The two consoles that commands print to, and the option --json."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200  # a file or a pipe has no width of its own

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value.")]


@cache
def out() -> "Console":
    """Return the console of standard output; rich is imported when something is printed."""
    return _console(error=False)


@cache
def errors() -> "Console":
    """Return the console of standard error."""
    return _console(error=True)


def _console(*, error: bool) -> "Console":
    from rich.console import Console

    terminal = (sys.stderr if error else sys.stdout).isatty()
    return Console(stderr=error, width=None if terminal else PIPE_WIDTH)


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that are not finite become null."""
    from leff.files import finite

    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a mapping without one of its keys."""
    return {key: value for key, value in values.items() if key != name}
