"""The devices that the owner admitted, by their keys.

    registry = Registry(folder.path / "devices.json")
    device = registry.admit(key_text)           # of the line that `leff device join` prints
    registry.devices()[0].number                # 1, in the order of admission

A key is a public key as OpenSSH writes it.  `leff server start` registers what is admitted at the
SuperLink, and again if the SuperLink lost its state.
"""

import base64
import hashlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from leff.errors import ConfigError, NetworkError
from leff.files import read_json, write_json

CURVE = "nistp384"


@dataclass(frozen=True)
class AdmittedDevice:
    """A device as the owner admitted it; `key` is the middle of an OpenSSH line."""

    number: int  # from 1, in the order of admission
    key: str
    name: str
    admitted: float  # seconds since 1970
    memory: str = ""  # as measured when it joined, such as 8000MB; "" if not said
    speed: str = ""
    removed: bool = False

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits by which people and files name the key."""
        return fingerprint(self.key)

    @property
    def pem(self) -> bytes:
        """The key as the SuperLink wants it."""
        return _parsed(self.key)


class Registry:
    """Reads and changes `devices.json`.  One process at a time changes it (`ServerFolder.lock`)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def devices(self, removed: bool = False) -> list[AdmittedDevice]:
        """Return the admitted devices in order, with those that were removed if asked for."""
        remedy = "put a copy of it back, or remove it and admit the devices again"
        values = read_json(self._path, remedy)
        if values is None:
            return []
        try:
            all_of_them = [AdmittedDevice(**each) for each in values["devices"]]
        except (KeyError, TypeError):
            raise NetworkError(f"{self._path} is of another version of leff; {remedy}") from None
        return [device for device in all_of_them if removed or not device.removed]

    def admit(self, key: str, name: str = "", memory: str = "", speed: str = "") -> AdmittedDevice:
        """Admit a key, given as an OpenSSH line or as its middle; the rest is for people.

        Raises ConfigError for what is no key, and for one that was admitted before.
        """
        key = key_of(key)
        known = self.devices(removed=True)
        same = [device for device in known if device.key == key and not device.removed]
        if same:
            raise ConfigError(
                f"the key {fingerprint(key)} was admitted already, as device {same[0].number}; "
                "each device needs a key of its own, which `leff device join` makes"
            )
        number = len(known) + 1
        if any(device.key == key for device in known):
            raise ConfigError(
                f"the key {fingerprint(key)} was removed, and stays out; remove the device's "
                "folder, and join again with a new key"
            )
        device = AdmittedDevice(number, key, name or f"device {number}", time.time(), memory, speed)
        self._write([*known, device])
        return device

    def remove(self, fingerprint: str) -> AdmittedDevice:
        """Take a device's admission back.  ConfigError if none has this fingerprint."""
        known = self.devices(removed=True)
        for place, device in enumerate(known):
            if device.fingerprint == fingerprint and not device.removed:
                known[place] = replace(device, removed=True)
                self._write(known)
                return known[place]
        raise ConfigError(f"no device {fingerprint!r} is admitted; see `leff server status`")

    def _write(self, devices: list[AdmittedDevice]) -> None:
        write_json(self._path, {"devices": [asdict(device) for device in devices]})


def fingerprint(key: str) -> str:
    """Return the first 16 hexadecimal digits of a key's SHA-256."""
    return hashlib.sha256(base64.b64decode(key)).hexdigest()[:16]


def key_of(text: str) -> str:
    """Return the middle of an OpenSSH line, or the text itself, if that is a key of our kind."""
    words = text.split()
    middle = next((word for word in words if word.startswith("AAAA")), "")
    try:
        _parsed(middle)
    except ValueError:
        raise ConfigError(
            f"this is no key of a device: {text[:60]!r}; `leff device join` prints the whole line "
            "to admit a device with"
        ) from None
    return middle


def _parsed(key: str) -> bytes:
    """Return a key as PEM.  ValueError if it is none of our kind."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        read = serialization.load_ssh_public_key(f"ecdsa-sha2-{CURVE} {key}".encode())
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(read, ec.EllipticCurvePublicKey) or read.curve.name != "secp384r1":
        raise ValueError("the key is of another kind")
    return read.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
