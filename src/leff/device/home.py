"""The folder of a device: its key, whom it joined, and what its owner allows.

HOME/join.json      the federation that it joined
     ca.crt         whom it trusts
     key, key.pub   its key; the first is readable by its owner alone
     device.toml    data, capacity and limits, written by `leff device join`, edited by people
     parts/         parts of models, kept for the next round
     inbox.json     the job at work, outbox/ answers, residuals/ what rounding left
     privacy.json   noise of each update, if its owner set a privacy budget
     sums/          for each run, with whom its updates were summed
     node.json      what the server calls it
     status.json    what it does now

home = DeviceHome.join(Path("~/leff"), Path("join.json"))
home.settings().limits.seconds
"""

import json
import shlex
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leff.device.settings import DeviceSettings, read_settings
from leff.errors import ConfigError, NetworkError
from leff.files import (
    is_locked,
    locked,
    make_folder,
    write_atomically,
    write_json,
    write_synced,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

JOIN_BYTES = 2**16
KEYS = ("address", "federation", "leff", "ca")


@dataclass(frozen=True)
class JoinFile:
    """What `leff server init` wrote for devices; it holds no secret."""

    address: str
    federation: str
    leff: str
    ca: str

    @classmethod
    def read(cls, path: Path) -> "JoinFile":
        """Return a join file.  ConfigError for one that cannot be read or is something else."""
        try:
            with path.open("rb") as file:
                values: Any = json.loads(file.read(JOIN_BYTES))
        except OSError as error:
            raise ConfigError(
                f"join file {path} cannot be read: {error.strerror}; `leff server init` writes it "
                "into the server's folder, from where it is copied"
            ) from None
        except (ValueError, RecursionError):
            values = None
        texts = cast("dict[str, Any]", values) if isinstance(values, dict) else {}
        if not all(isinstance(texts.get(key), str) and texts[key] for key in KEYS):
            raise ConfigError(
                f"{path} is no join file; take the join.json that `leff server init` wrote"
            )
        return cls(**{key: texts[key] for key in KEYS})


class DeviceHome:
    """Paths and files of a device."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca, self.key_file, self._lock_file = path / "ca.crt", path / "key", path / ".lock"
        self.inbox, self.status_file, self.log = (
            path / name for name in ("inbox.json", "status.json", "device.log")
        )

    @classmethod
    def join(cls, path: Path, join_file: Path, settings: str) -> "DeviceHome":
        """Make a device's folder for a federation; `settings` is the text of its `device.toml`.

        Raises ConfigError if `join_file` is none, or if the folder has joined another federation.
        A folder that joined this one already keeps its key and settings, and gets the new address.
        """
        joined, home = JoinFile.read(join_file), cls(path)
        if (path / "join.json").exists():
            before = home.joined().federation
            if before != joined.federation:
                raise ConfigError(
                    f"{path} has joined the federation {before[:8]}, and {join_file} is of "
                    f"{joined.federation[:8]}; give another --home"
                )
        make_folder(path)
        path.chmod(0o700)
        if not home.key_file.exists():
            home._make_key()
        if not (path / "device.toml").exists():
            write_atomically(path / "device.toml", settings.encode())
        write_atomically(home.ca, joined.ca.encode())
        write_json(path / "join.json", {key: getattr(joined, key) for key in KEYS})
        return home

    @classmethod
    def open(cls, path: Path) -> "DeviceHome":
        """Return a device's folder.  ConfigError if it has joined no federation."""
        home = cls(path)
        if not (path / "join.json").exists() or not home.key_file.exists():
            raise ConfigError(f"{path} has joined no federation; run `leff device join JOIN-FILE`")
        return home

    def joined(self) -> JoinFile:
        return JoinFile.read(self.path / "join.json")

    def settings(self, given: Mapping[str, Any] | None = None) -> DeviceSettings:
        """Return what `device.toml` says, with the `given` values in place (`read_settings`)."""
        return read_settings(self.path / "device.toml", given or {})

    # The key

    def _make_key(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        self.key_file.touch(mode=0o600, exist_ok=False)
        write_synced(self.key_file, private)
        write_atomically(self.path / "key.pub", public + b"\n")

    def key(self) -> "EllipticCurvePrivateKey":
        """Return the device's key.  ConfigError if it is damaged."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        try:
            key = serialization.load_ssh_private_key(self.key_file.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{self.key_file} cannot be read ({error}); remove {self.path} and join anew"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigError(f"{self.key_file} is a key of another kind; remove it and join anew")
        return key

    @property
    def public_key(self) -> str:
        """The middle of the public key's OpenSSH line."""
        return (self.path / "key.pub").read_text().split()[1]

    # What it remembers

    def admit_line(self, settings: DeviceSettings) -> str:
        """Return what the server's owner types to let this device in."""
        capacity = settings.capacity
        line = f"leff server admit {self.public_key} --name {shlex.quote(settings.name)}"
        line += f" --memory {capacity.memory}" if capacity.memory else ""
        return line + (f" --speed {capacity.speed}" if capacity.speed else "")

    def node(self) -> int | None:
        """Return what the server called this device last, or None."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads((self.path / "node.json").read_text())["node"])
        return None

    def remember_node(self, node: int) -> None:
        """Note what the server calls this device; on a full disk it only comes back later."""
        if node != self.node():
            with suppress(OSError):
                write_atomically(self.path / "node.json", json.dumps({"node": node}).encode())

    def summary(self) -> dict[str, Any]:
        """Return the device's state, key and federation, as JSON values."""
        joined, said = self.joined(), self.status()
        running = is_locked(self._lock_file)
        state = said.get("state", "starting") if running else "not running"
        return {
            "home": str(self.path),
            "key": self.public_key,
            "address": joined.address,
            "federation": joined.federation,
            "running": running,
            "state": state,
            "reason": said.get("reason", "") if running else "",
            "since": said.get("since"),
            "done": said.get("done", 0),
        }

    def status(self) -> dict[str, Any]:
        """Return what the device wrote of itself last; {} if nothing."""
        with suppress(OSError, ValueError):
            return json.loads(self.status_file.read_text())
        return {}

    @contextmanager
    def lock(self) -> Generator[None]:
        """Keep a second process of this device out.  NetworkError if there is one."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self._lock_file))
            except BlockingIOError:
                raise NetworkError(
                    f"the device of {self.path} is running already; another device needs a folder "
                    "of its own, which `leff device join JOIN-FILE --home FOLDER` makes"
                ) from None
            yield


def check_server(home: DeviceHome, leff: str, flwr: str, federation: str) -> None:
    """Raise NetworkError if what a server says of itself is not what this device joined."""
    joined, own = home.joined(), metadata.version("leff")
    if federation != joined.federation:
        raise NetworkError(
            f"{joined.address} is the server of the federation {federation[:8]}, and this device "
            f"joined {joined.federation[:8]}; join again with its join file"
        )
    for name, theirs, ours in (("leff", leff, own), ("flwr", flwr, metadata.version("flwr"))):
        if theirs != ours:
            raise NetworkError(
                f"the server has {name} {theirs}, and this device has {name} {ours}; install the "
                "same version on both"
            )
