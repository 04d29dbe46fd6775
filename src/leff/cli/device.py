"""`leff device join|start|status`: this machine as a device of a federation."""

# pyright: reportUnknownMemberType=false
# the types of typer 0.20 do not know those of click 8.4

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from leff.cli.console import Json, out, print_json
from leff.errors import ConfigError
from leff.extras import need

app = typer.Typer(no_args_is_help=True, help="Take part in a federation with this machine's data.")
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        help="The device's folder; by default LEFF_DEVICE, else ~/.local/share/leff/device.",
    ),
]


@app.command()
def join(
    join_file: Annotated[Path, typer.Argument(metavar="JOIN-FILE", help="The server's join.json.")],
    home: Home = None,
    name: Annotated[str, typer.Option(help="A name for people.")] = "device",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of a step.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    as_json: Json = False,
) -> None:
    """Make this device's key, measure what it can do, and print how the owner admits it."""
    need("device", "a device")
    from leff.capacity.profile import measure_device
    from leff.device.home import DeviceHome, JoinFile
    from leff.device.settings_text import settings_text

    JoinFile.read(join_file)  # before the measurement
    path = _home(home)
    text = ""
    if not (path / "device.toml").exists():
        text = settings_text(measure_device(device, threads=threads), name, device)
    joined = DeviceHome.join(path, join_file, text)
    settings, about = joined.settings(), joined.joined()
    capacity, line = settings.capacity, joined.admit_line(settings)
    if as_json:
        return print_json(
            {
                "home": str(path),
                "federation": about.federation,
                "address": about.address,
                "key": joined.public_key,
                "capacity": capacity.model_dump(),
                "admit": line,
            }
        )
    out().print(f"{path} joins {about.address}", soft_wrap=True)
    out().print(f"it has {capacity.memory} of memory and does {capacity.speed}", soft_wrap=True)
    out().print("the owner of the server admits it with:", soft_wrap=True)
    typer.echo(line)
    return None


@app.command()
def start(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Training file; several, or a pattern: each is a client."),
    ] = None,
    home: Home = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any key of device.toml."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Connect, and train whenever the server asks; reconnects by itself until it is ended."""
    need("device", "a device")
    from leff.device.home import DeviceHome
    from leff.device.process import watched

    opened = DeviceHome.open(_home(home))
    settings = opened.settings(_overrides(data, options))
    settings.data.check_files()
    command = [sys.executable, "-m", "leff.device.process", str(opened.path)]
    command += [settings.model_dump_json(), "json" if as_json else "text"]
    status = watched(opened, command)
    if status:
        raise typer.Exit(status)


@app.command()
def status(home: Home = None, as_json: Json = False) -> None:
    """Show what the device does now."""
    from leff.device.home import DeviceHome
    from leff.report.network import print_device

    opened = DeviceHome.open(_home(home))
    result = opened.summary()
    return print_json(result) if as_json else print_device(out(), result)


def _home(given: Path | None) -> Path:
    named = given or os.environ.get("LEFF_DEVICE") or Path("~/.local/share/leff/device")
    return Path(named).expanduser().absolute()


def _overrides(data: list[str] | None, options: list[str] | None) -> dict[str, Any]:
    """Return the settings given on the command line, as the nested values of `device.toml`."""
    from leff.cli.runs import option

    given = dict(map(option, options or []))
    if data:
        given["data.train"] = data[0] if len(data) == 1 else data
    values: dict[str, Any] = {}
    for key, value in given.items():
        *sections, last = key.split(".")
        if len(sections) > 1:
            raise ConfigError(f"--set {key}: device.toml has no such key")
        place = values.setdefault(sections[0], {}) if sections else values
        if not isinstance(place, dict):
            raise ConfigError(f"--set {key}: device.toml has no such key")
        place[last] = value
    return values
