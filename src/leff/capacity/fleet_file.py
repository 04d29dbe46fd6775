"""Device classes: what a phone or a laptop of the fleet has, from a TOML file.

    [phone]
    count = 6                # 1 if not said
    memory = "2GB"           # at the peak of a training step
    speed = "50GFLOP/s"
    down = "20Mbit/s"
    up = "5Mbit/s"

    devices = fleet_devices(read_classes(Path("fleet.toml")))      # a Device per client

`leff profile` writes such a file with one class.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from leff.errors import ConfigError, nearest
from leff.units import BYTES, parse_amount, parse_link, parse_speed
from leff.wire.messages import Device

KEYS = ("count", "memory", "speed", "down", "up")


@dataclass(frozen=True)
class DeviceClass:
    """A class as a file has it: values as text, of which some may be missing."""

    name: str
    count: int
    values: Mapping[str, str]
    origin: str  # for errors

    def with_values(self, given: Mapping[str, str | None]) -> "DeviceClass":
        """Return the class with these values in place of its own, where they are not None."""
        found = {key: value for key, value in given.items() if value is not None}
        return replace(self, values={**self.values, **found})

    def device(self) -> Device:
        """Return the device.  ConfigError for a value that is missing or cannot be read."""
        missing = [key for key in KEYS[1:] if key not in self.values]
        if missing:
            raise ConfigError(
                f"{self.origin}: {self.name} has no {' and no '.join(missing)}; "
                f"write it, such as {_EXAMPLES[missing[0]]}{_HINTS.get(missing[0], '')}"
            )
        return Device(
            self.name,
            self._read("memory", _bytes),
            self._read("speed", parse_speed),
            self._read("down", parse_link),
            self._read("up", parse_link),
        )

    def _read(self, key: str, parse: Any) -> Any:
        try:
            found = parse(self.values[key])
        except ConfigError as error:
            raise ConfigError(f"{self.origin}: {self.name}.{key}: {error}") from None
        if not found:
            raise ConfigError(f"{self.origin}: {self.name}.{key} must be above 0")
        return found


def _bytes(text: str) -> int:
    return parse_amount(text, BYTES)


_EXAMPLES = {
    "memory": 'memory = "2GB"',
    "speed": 'speed = "50GFLOP/s"',
    "down": 'down = "20Mbit/s"',
    "up": 'up = "5Mbit/s"',
}
_HINTS: dict[str, str] = dict.fromkeys(
    ("down", "up"), ", or measure it with `leff profile --server URL`"
)


def read_classes(path: Path) -> dict[str, DeviceClass]:
    """Return the classes of a file by name, in its order.

    Raises ConfigError for a file that cannot be read or has no class, an unknown key, a value
    that is no text or number, and a count below 1.  Missing values show in `DeviceClass.device`.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no fleet file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    if not found:
        raise ConfigError(f"{path} has no device class; write one, such as [phone]")
    return {name: _class(path, name, values) for name, values in found.items()}


def _class(path: Path, name: str, values: Any) -> DeviceClass:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {name} = {values!r} is outside a class such as [phone]")
    given = cast("dict[str, object]", values)
    for key, value in given.items():
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {name}.{key}{nearest(key, KEYS)}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigError(f"{path}: {name}.{key} must be text such as '2GB', got {value!r}")
    count = given.get("count", 1)
    if not isinstance(count, int) or count < 1:
        raise ConfigError(f"{path}: {name}.count must be a whole number from 1, got {count!r}")
    texts = {key: str(value) for key, value in given.items() if key != "count"}
    return DeviceClass(name, count, texts, str(path))


def pick(classes: Mapping[str, DeviceClass], name: str | None) -> DeviceClass:
    """Return the class of that name, or without one the only class.

    Raises ConfigError for a name that is not there, and for no name where there are several.
    """
    origin = next(iter(classes.values())).origin
    if name is None and len(classes) > 1:
        raise ConfigError(f"{origin} has several classes ({', '.join(classes)}); say which")
    if name is not None and name not in classes:
        raise ConfigError(f"{origin} has no class {name!r}{nearest(name, classes)}")
    return classes[name or next(iter(classes))]


def asked_classes(
    fleet: Path | None,
    device: Path | None,
    name: str | None,
    values: Mapping[str, str | None],
) -> dict[str, DeviceClass]:
    """Return the classes of a fleet file, or the one of a device file or of plain values.

    `values` win over those of a device file.  Raises ConfigError for what cannot be combined.
    """
    if fleet is not None:
        given = [f"--{key}" for key, value in values.items() if value is not None]
        given += ["--device"] if device else []
        if given:
            raise ConfigError(f"{', '.join(given)} cannot be combined with --fleet; leave it out")
        classes = read_classes(fleet)
        return {name: pick(classes, name)} if name else classes
    if device is not None:
        found = pick(read_classes(device), name)
    elif name is not None:
        raise ConfigError(f"--class {name} is a class of a file; give --fleet or --device")
    else:
        missing = [f"--{key}" for key in KEYS[1:] if values.get(key) is None]
        if missing:
            raise ConfigError(
                f"a round's seconds need {', '.join(missing)} too, or --device or --fleet, a file"
            )
        found = DeviceClass("device", 1, {}, "the command line")
    return {found.name: found.with_values(values)}


def fleet_devices(classes: Mapping[str, DeviceClass]) -> tuple[Device, ...]:
    """Return a device for each client, class after class.  ConfigError as `DeviceClass.device`."""
    return tuple(device for each in classes.values() for device in [each.device()] * each.count)
