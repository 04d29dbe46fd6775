"""Device classes: the memory, speed and link of a fleet's phones or laptops, from a TOML file.

    [phone]
    count = 6                # 1 by default
    memory = "2GB"           # at the peak of a training step
    speed = "50GFLOP/s"
    down = "20Mbit/s"
    up = "5Mbit/s"

    devices = fleet_devices(read_classes(Path("fleet.toml")))      # a Device per client

`leff profile` writes such a file with one class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from leff.errors import LONGEST_VALUE, ConfigError, key_part, nearest, shown
from leff.toml import read_toml
from leff.units import BYTES, amount_text, parse_amount, parse_link, parse_speed
from leff.wire.messages import Device

KEYS = ("count", "memory", "speed", "down", "up")
MOST_DEVICES = 10**6  # of a fleet; each is a client


@dataclass(frozen=True)
class DeviceClass:
    """A class as written in a file: its values are text, and some may be missing."""

    name: str
    count: int
    values: Mapping[str, str]
    origin: str  # the file, for error messages

    def with_values(self, given: Mapping[str, str | None]) -> "DeviceClass":
        """Return the class with the given values that are not None in place of its own."""
        values = {key: value for key, value in given.items() if value is not None}
        return replace(self, values={**self.values, **values})

    def device(self) -> Device:
        """Return the device.  Raises ConfigError for a missing or unreadable value."""
        missing = [key for key in KEYS[1:] if key not in self.values]
        if missing:
            raise ConfigError(
                f"{self.origin}: {self.name} has no {' and no '.join(missing)}; "
                f"write it, such as {_EXAMPLES[missing[0]]}{_HINTS.get(missing[0], '')}"
            )
        return Device(
            self.name,
            self._read("memory", partial(parse_amount, units=BYTES)),
            self._read("speed", parse_speed),
            self._read("down", parse_link),
            self._read("up", parse_link),
        )

    def _read(self, key: str, parse: Any) -> Any:
        try:
            amount = parse(self.values[key])
        except ConfigError as error:
            raise ConfigError(f"{self.origin}: {self.name}.{key}: {error}") from None
        if not amount:
            raise ConfigError(f"{self.origin}: {self.name}.{key} must be above 0")
        return amount


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
    """Return the classes of a file by name, in the order of the file.

    Raises ConfigError for a file that cannot be read or has no class, an unknown key, a value
    that is no text or number, a count below 1, and more devices than `MOST_DEVICES`.
    `DeviceClass.device` reports missing values.
    """
    classes = read_toml(path, "fleet file")
    if not classes:
        raise ConfigError(f"{path} has no device class; write one, such as [phone]")
    read = {name: _class(path, name, values) for name, values in classes.items()}
    devices = sum(each.count for each in read.values())
    if devices > MOST_DEVICES:
        raise ConfigError(
            f"{path} has {shown(devices)} devices; a fleet has at most {MOST_DEVICES}, lower count"
        )
    return read


def _class(path: Path, name: str, values: Any) -> DeviceClass:
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: {key_part(name)} = {shown(values)} is outside a class such as [phone]"
        )
    if not (0 < len(name) <= LONGEST_VALUE and name.isprintable()):
        raise ConfigError(
            f"{path}: a class is called {shown(name)}; take a name of 1 to {LONGEST_VALUE} "
            "printable characters"
        )
    given = cast("dict[str, object]", values)
    for key in given:
        if key not in KEYS:
            raise ConfigError(f"{path}: unknown key {name}.{key_part(key)}{nearest(key, KEYS)}")
    count = given.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{path}: {name}.count must be a whole number from 1, got {shown(count)}")
    texts: dict[str, str] = {}
    for key, value in given.items():
        try:
            texts |= {} if key == "count" else {key: amount_text(value)}
        except ConfigError as error:
            raise ConfigError(f"{path}: {name}.{key} {error}") from None
    return DeviceClass(name, count, texts, str(path))


def pick(classes: Mapping[str, DeviceClass], name: str | None) -> DeviceClass:
    """Return the class of that name, or the only class if no name is given.

    Raises ConfigError for an unknown name, and for no name if there are several classes.
    """
    origin = next(iter(classes.values())).origin
    if name is None and len(classes) > 1:
        raise ConfigError(f"{origin} has several classes ({', '.join(classes)}); say which")
    if name is not None and name not in classes:
        raise ConfigError(f"{origin} has no class {shown(name)}{nearest(name, classes)}")
    return classes[name or next(iter(classes))]


def asked_classes(
    fleet: Path | None,
    device: Path | None,
    name: str | None,
    values: Mapping[str, str | None],
) -> dict[str, DeviceClass]:
    """Return the classes of a fleet file, or one class from a device file or from `values`.

    `values` replace a device file's own.  Raises ConfigError for options that cannot be combined.
    """
    if fleet is not None:
        given = [f"--{key}" for key, value in values.items() if value is not None]
        given += ["--device"] if device else []
        if given:
            raise ConfigError(f"{', '.join(given)} cannot be combined with --fleet; leave it out")
        classes = read_classes(fleet)
        return {name: pick(classes, name)} if name else classes
    if device is not None:
        picked = pick(read_classes(device), name)
    elif name is not None:
        raise ConfigError(f"--class {name} is a class of a file; give --fleet or --device")
    else:
        missing = [f"--{key}" for key in KEYS[1:] if values.get(key) is None]
        if missing:
            raise ConfigError(
                f"a round's seconds need {', '.join(missing)} too, or --device or --fleet, a file"
            )
        picked = DeviceClass("device", 1, {}, "the command line")
    return {picked.name: picked.with_values(values)}


def fleet_devices(classes: Mapping[str, DeviceClass]) -> tuple[Device, ...]:
    """Return a device for each client, class by class.  ConfigError as in `DeviceClass.device`."""
    return tuple(device for each in classes.values() for device in [each.device()] * each.count)
