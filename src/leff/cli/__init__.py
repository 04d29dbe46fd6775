"""The command line: a thin layer over `leff.api`, a file for each group of commands.

    leff run e2e.toml --set training.rounds=5

Exit status: 0 on success, 2 on wrong use, 1 on failure.  Errors go to standard error.  With
``--json`` standard output is one JSON value, and progress goes to standard error.
"""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.core

from leff.cli import device, server
from leff.cli.export import export
from leff.cli.paper import figure, table
from leff.cli.plans import plan, profile
from leff.cli.runs import config, list_runs, resume, run
from leff.cli.scores import mmlu, score
from leff.cli.show import show
from leff.cli.start import examples, new
from leff.cli.sweep import sweep
from leff.cli.trained import evaluate, generate, predict
from leff.errors import ConfigError, LeffError, RunError, UsageError, one_line, shown
from leff.extras import advice

typer.core.HAS_RICH = False  # or typer 0.20 marks the brackets of plain help for rich
app = typer.Typer(
    help="Federated fine-tuning of language models: each device trains the layers it can afford.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich takes a tenth of a second to import
)
app.command()(new)
app.command()(examples)
app.command()(run)
app.command()(resume)
app.command()(evaluate)
app.command()(predict)
app.command()(generate)
app.command()(export)
app.command()(show)
app.command("list")(list_runs)
app.command()(config)
app.command()(sweep)
app.command()(plan)
app.command()(profile)
app.command()(score)
app.command()(mmlu)
app.command()(table)
app.command()(figure)
app.add_typer(server.app, name="server")
app.add_typer(device.app, name="device")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"leff {metadata.version('leff')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that need no command."""


class _ToStandardError(logging.Handler):
    """Looks `sys.stderr` up for each record: a live table replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def main() -> None:
    """Run the command line and exit."""
    logging.basicConfig(format="%(levelname)s %(message)s", handlers=[_ToStandardError()])
    logging.getLogger("leff").setLevel(logging.INFO)
    try:
        _check_arguments(sys.argv[1:])
        app()
    except LeffError as error:
        _fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (needed := advice(package)) is None:
            raise
        _fail(f"this needs the package {package}; {needed}", UsageError.exit_status)
    except OSError as error:  # such as a full disk: a traceback would not help
        _fail(str(error), RunError.exit_status)
    except (MemoryError, RuntimeError) as error:
        from leff.client.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _fail(f"out of memory: {error}".rstrip(": "), RunError.exit_status)


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise ConfigError for an argument that is not UTF-8: no run's files could hold it."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            problem = f"the argument {shown(argument)} is not UTF-8; write it in UTF-8"
            raise ConfigError(problem) from None


def _fail(message: str, status: int) -> None:
    typer.echo(one_line(f"error: {message}"), err=True)
    sys.exit(status)
