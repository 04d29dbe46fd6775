"""`leff show`: a page to look at runs and plans with."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import webbrowser
from pathlib import Path
from threading import Thread
from typing import Annotated

import typer

from leff.cli.console import out
from leff.errors import ConfigError
from leff.extras import need


def show(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN…]",
            help="Runs, folders that hold runs, plans in JSON; by default runs/.",
        ),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the page into one HTML file, and serve nothing.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to serve; beyond this machine it takes a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 is any that is free.")
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Look at runs in a browser: curves, layers, devices, texts; it follows runs that go on."""
    need("show", "leff show")
    from leff.show.export import write_page
    from leff.show.pages import Pages
    from leff.show.server import PageServer, served_at
    from leff.show.sources import Sources

    if not places and not Path("runs").is_dir():
        raise ConfigError("there is no folder runs here; say which run, or folder of runs, to show")
    pages = Pages(Sources(places or [Path("runs")]))
    if export is not None:
        size = write_page(pages, export)
        out().print(f"written to {export}, {size:,} bytes", highlight=False, soft_wrap=True)
        return
    server = PageServer(pages, served_at(host, port))
    address = server.at.address()
    out().print(f"{address}  (Ctrl-C ends it)", highlight=False, soft_wrap=True)
    Thread(target=pages.index, daemon=True).start()  # reads all runs while the browser starts
    if browser:
        webbrowser.open(address)
    server.run()
