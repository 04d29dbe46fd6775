"""`leff server init|start|status|stop|admit|remove|renew|split`: a federation on a network."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from leff.cli.console import Json, out, print_json
from leff.errors import ConfigError, RunError
from leff.extras import need

app = typer.Typer(no_args_is_help=True, help="Run a federation that devices join over a network.")
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The server's folder.")]
Given = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="The server's folder; by default the one that runs here."),
]
Server = Annotated[
    Path | None,
    typer.Option("--server", help="The server's folder; by default the one that runs here."),
]
STOP_SECONDS = 30.0


@app.command()
def init(
    folder: Folder,
    address: Annotated[
        str, typer.Option(help="name:port by which devices reach this server.")
    ] = "127.0.0.1:9443",
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on; by default 127.0.0.1 if that is --address, else 0.0.0.0."
        ),
    ] = None,
    link_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of Flower's SuperLink, on 127.0.0.1.")
    ] = 9444,
    as_json: Json = False,
) -> None:
    """Make a server's folder: certificates, secrets, and the join file for devices."""
    need("server", "a server")
    from leff.network.folder import LOOPBACK, ServerFolder, split_address
    from leff.network.superlink import check_version

    check_version()
    name, _ = split_address(address)
    host = listen or ("127.0.0.1" if name in LOOPBACK else "0.0.0.0")
    made = ServerFolder.init(folder.expanduser(), address, host, link_port)
    _, settings = ServerFolder.open(made.path)
    if as_json:
        return print_json(
            {
                "folder": str(made.path),
                "address": settings.address,
                "federation": settings.federation,
                "join_file": str(made.join_file),
            }
        )
    out().print(
        f"made {made.path}, for devices that reach it as {settings.address}", soft_wrap=True
    )
    if name in LOOPBACK:
        out().print("only this machine reaches that address; for others give --address NAME:PORT")
    out().print(f"next: leff server start {folder}", soft_wrap=True)
    out().print(
        f"copy {made.join_file} to each device, and there: leff device join {made.join_file.name}",
        soft_wrap=True,
    )
    return None


@app.command()
def start(folder: Folder, as_json: Json = False) -> None:
    """Run the server until it is stopped; processes that end are started again."""
    need("server", "a server")
    from leff.network.folder import ServerFolder
    from leff.network.superlink import check_version
    from leff.network.supervisor import Supervisor

    check_version()
    opened, settings = ServerFolder.open(folder.expanduser())

    def ready() -> None:
        if as_json:
            said = {"ready": True, "pid": os.getpid(), "address": settings.address}
            typer.echo(json.dumps(said))
        else:
            typer.echo(f"ready for devices at {settings.address}; Ctrl-C ends it")

    Supervisor(opened, settings).run(ready)


@app.command()
def status(folder: Given = None, as_json: Json = False) -> None:
    """Show the server's processes, its devices and its runs."""
    from leff.network.find import find_server
    from leff.network.status import server_status
    from leff.report.network import print_server

    result = server_status(*find_server(folder))
    return print_json(result) if as_json else print_server(out(), result)


@app.command()
def stop(folder: Given = None, as_json: Json = False) -> None:
    """End the server's processes; runs wait, and go on when it is started again."""
    from leff.network.find import find_server

    opened, _ = find_server(folder)
    state = opened.running()
    if state is not None:
        os.kill(state["pid"], signal.SIGTERM)
        until = time.monotonic() + STOP_SECONDS
        while opened.running() is not None:
            if time.monotonic() > until:
                raise RunError(f"the server of {opened.path} has not ended in {STOP_SECONDS:.0f} s")
            time.sleep(0.1)
    if as_json:
        return print_json({"folder": str(opened.path), "stopped": state is not None})
    typer.echo(f"{opened.path} {'is stopped' if state else 'was not running'}")
    return None


@app.command()
def admit(
    key: Annotated[str, typer.Argument(help="The device's key, as `leff device join` prints it.")],
    name: Annotated[str, typer.Option(help="A name for people; the key is what counts.")] = "",
    memory: Annotated[str, typer.Option(help="What it measured when it joined.")] = "",
    speed: Annotated[str, typer.Option(help="What it measured when it joined.")] = "",
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Admit a device; it may then take part in every run of this server."""
    from leff.network.find import find_server
    from leff.network.registry import Registry
    from leff.units import BYTES, parse_amount, parse_speed

    if memory:
        parse_amount(memory, BYTES)
    if speed:
        parse_speed(speed)
    opened, _ = find_server(server)
    with opened.lock("devices"):
        device = Registry(opened.path / "devices.json").admit(key, name, memory, speed)
    if as_json:
        return print_json({"key": device.fingerprint, "number": device.number, "name": device.name})
    typer.echo(f"device {device.number}, key {device.fingerprint}, is admitted")
    return None


@app.command()
def remove(
    key: Annotated[str, typer.Argument(help="The key, as `leff server status` prints it.")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Take a device's admission back."""
    from leff.network.find import find_server
    from leff.network.registry import Registry

    opened, _ = find_server(server)
    with opened.lock("devices"):
        device = Registry(opened.path / "devices.json").remove(key)
    if as_json:
        return print_json({"key": device.fingerprint, "removed": True})
    typer.echo(f"device {device.number}, key {device.fingerprint}, is no longer admitted")
    return None


@app.command()
def renew(folder: Given = None, as_json: Json = False) -> None:
    """Make the server's certificate anew, for two years; devices need not join again."""
    from leff.network.find import find_server

    opened, settings = find_server(folder)
    until = opened.renew(settings).date().isoformat()
    restart = opened.running() is not None
    if as_json:
        return print_json({"folder": str(opened.path), "until": until, "restart": restart})
    typer.echo(f"the certificate of {settings.address} is valid until {until}")
    if restart:
        typer.echo("stop and start the server, so that it takes the new one")
    return None


@app.command()
def split(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run's TOML file.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the files.")],
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")],
    as_json: Json = False,
) -> None:
    """Divide a configuration's training data into a file a device, for trials."""
    from leff.runs.config import load_config
    from leff.runs.split_files import write_shards

    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder")
    files = write_shards(load_config(config), devices, folder)
    if as_json:
        return print_json({"files": [str(file) for file in files]})
    for file in files:
        typer.echo(file)
    return None
