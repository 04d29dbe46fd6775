"""Finds the server that a command means: the folder given, LEFF_SERVER, or the one that runs here.

find_server(None)      # of the only server that this user runs on this machine
"""

import os
from contextlib import suppress
from pathlib import Path

from leff.errors import ConfigError
from leff.network.folder import ServerFolder, ServerSettings


def find_server(given: Path | None) -> tuple[ServerFolder, ServerSettings]:
    """Return a server's folder and settings.

    Raises ConfigError if no folder is given and not exactly one server runs here.
    """
    if given is not None:
        return ServerFolder.open(given.expanduser())
    named = os.environ.get("LEFF_SERVER")
    if named:
        return ServerFolder.open(Path(named).expanduser())
    running = _running()
    if len(running) == 1:
        return ServerFolder.open(running[0])
    several = f"{len(running)} servers run here ({', '.join(map(str, running))})"
    raise ConfigError(
        f"{several if running else 'no server runs here'}; name the server's folder (--server, or "
        "engine.server in a configuration), or start one with `leff server start DIR`, which "
        "`leff server init DIR` makes"
    )


def note_running(folder: ServerFolder) -> None:
    """Note that a server runs, so that commands find it.  Nothing relies on it."""
    with suppress(OSError):
        _notes().mkdir(parents=True, exist_ok=True)
        _note(folder).write_text(str(folder.path))


def forget_running(folder: ServerFolder) -> None:
    """Forget a server that has ended."""
    with suppress(OSError):
        _note(folder).unlink(missing_ok=True)


def _running() -> list[Path]:
    paths: list[Path] = []
    for note in sorted(_notes().glob("*.server")):
        with suppress(OSError):
            path = Path(note.read_text())
            if ServerFolder(path).running() is not None:
                paths.append(path)
    return paths


def _notes() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "leff" / "servers"


def _note(folder: ServerFolder) -> Path:
    return _notes() / f"{ServerFolder.open(folder.path)[1].federation}.server"
