"""The folder of a server: what `leff server init` makes and `leff server start` runs on.

    DIR/server.json      address for devices, ports, the federation's id
        join.json        what a device needs to find the server; it holds no secret
        devices.json     the keys that were admitted, in order
        tls/             ca.crt, ca.key, server.crt, server.key
        secrets/         for the tokens of devices, and for runs at the SuperLink
        link.db          the SuperLink's state
        grants/          what each device may fetch and upload now
        logs/            one file a process
        state.json       the processes that run now

Keys and secrets are readable by their owner alone.
"""

import json
import math
import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from leff.errors import ConfigError, NetworkError
from leff.files import LOOK_SECONDS, is_locked, locked, make_folder, read_json, write_json
from leff.network import certificates
from leff.network.gateway import GatewaySettings

PORT = 9443
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class ServerSettings:
    """What `server.json` holds; `address` is ``host:port``, as devices reach the server."""

    address: str
    host: str  # to listen on
    port: int
    link_port: int  # of the SuperLink, on loopback
    federation: str


class ServerFolder:
    """Paths and files of a server."""

    def __init__(self, path: Path) -> None:
        path = self.path = path.absolute()
        self.ca, self.ca_key = path / "tls/ca.crt", path / "tls/ca.key"
        self.certificate, self.key = path / "tls/server.crt", path / "tls/server.key"
        self.token_secret, self.link_secret = path / "secrets/tokens", path / "secrets/link"
        self.database, self.grants, self.logs = path / "link.db", path / "grants", path / "logs"
        self.join_file, self.state_file = path / "join.json", path / "state.json"

    @classmethod
    def init(cls, path: Path, address: str, host: str, link_port: int) -> "ServerFolder":
        """Make a new server's folder.

        `address` is ``name:port``, as devices will reach it.  Raises ConfigError if the folder
        holds a server already, or anything else, and for an address that is none.
        """
        name, port = split_address(address)
        if (path / "server.json").exists():
            raise ConfigError(f"{path} holds a server already; `leff server start {path}` runs it")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is not empty; choose another folder")
        folder = cls(path)
        for each in (
            path,
            folder.ca.parent,
            folder.token_secret.parent,
            folder.grants,
            folder.logs,
        ):
            make_folder(each)
            each.chmod(0o700)
        for file in (folder.token_secret, folder.link_secret):
            certificates.write_secret(file, secrets.token_bytes(32))
        certificates.make_authority(folder.ca.parent)
        certificates.make_certificate(folder.ca.parent, list({name, *LOOPBACK}))
        federation = certificates.federation_id(folder.ca)
        shown_name = f"[{name}]" if ":" in name else name
        settings = ServerSettings(f"{shown_name}:{port}", host, port, link_port, federation)
        join = {
            "address": settings.address,
            "federation": federation,
            "leff": metadata.version("leff"),
            "ca": folder.ca.read_text(),
        }
        write_json(folder.join_file, join)
        write_json(path / "server.json", {**asdict(settings), "gateway": folder._gateway(settings)})
        return folder

    @classmethod
    def open(cls, path: Path) -> tuple["ServerFolder", ServerSettings]:
        """Return a server's folder and settings.  ConfigError if there is none."""
        remedy = "make the server anew with `leff server init`, and let devices join again"
        values = read_json(path / "server.json", remedy)
        if values is None:
            raise ConfigError(f"{path} holds no server; `leff server init {path}` makes one")
        try:
            del values["gateway"]
            return cls(path), ServerSettings(**values)
        except (KeyError, TypeError):
            raise ConfigError(
                f"{path}/server.json is of another version of leff; {remedy}"
            ) from None

    def renew(self, settings: ServerSettings) -> datetime:
        """Make the server's certificate anew, of the same authority; return its end, in UTC."""
        name, _ = split_address(settings.address)
        certificates.make_certificate(self.ca.parent, list({name, *LOOPBACK}))
        return certificates.valid_until(self.certificate)

    def _gateway(self, settings: ServerSettings) -> dict[str, Any]:
        return GatewaySettings(
            host=settings.host,
            port=settings.port,
            certificate=self.certificate.relative_to(self.path),
            key=self.key.relative_to(self.path),
            grants=self.grants.relative_to(self.path),
            secret=self.token_secret.relative_to(self.path),
            federation=settings.federation,
            superlink=f"https://127.0.0.1:{settings.link_port}",
            superlink_authority=self.ca.relative_to(self.path),
            log=(self.logs / "gateway.log").relative_to(self.path),
        ).as_json()

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Generator[None]:
        """Keep other processes out of something while the body runs.

        Raises NetworkError if another process is in it and `wait` is false.
        """
        with ExitStack() as held:
            try:
                seconds = math.inf if wait else LOOK_SECONDS
                held.enter_context(locked(self.path / f".{name}.lock", seconds))
            except BlockingIOError:
                raise NetworkError(f"another process has the {name} of {self.path}") from None
            yield

    def running(self) -> dict[str, Any] | None:
        """Return what `state.json` says of the processes that run, or None if none do."""
        with suppress(OSError, ValueError):
            state = json.loads(self.state_file.read_text())
            alive = psutil.pid_exists(int(state["pid"]))
            return state if alive and is_locked(self.path / ".server.lock") else None
        return None


def split_address(address: str) -> tuple[str, int]:
    """Return the name and the port of ``name:port``; the port may be left out.

    Raises ConfigError for an address that is none.
    """
    name, _, port = address.rpartition(":") if ":" in address else (address, "", str(PORT))
    name = name.strip("[]")
    fine = name and not any(c.isspace() or c in "/@?#" for c in name) and port.isdecimal()
    if not fine or not 1 <= int(port) <= 65535:
        raise ConfigError(f"the address must be like leff.example.org:{PORT}, got {address!r}")
    return name, int(port)
