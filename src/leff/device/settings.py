"""`device.toml`: what a device's owner says of its data, its capacity and its limits.

settings = read_settings(Path("device.toml"), {"threads": 2})
settings.limits.time, settings.capacity.memory_bytes
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leff.errors import ConfigError, DataError, nearest, shown
from leff.tasks.encode import Kind
from leff.toml import read_toml
from leff.units import BYTES, parse_amount, parse_link, parse_seconds, parse_speed
from leff.wire.messages import Device

if TYPE_CHECKING:
    from leff.device.data import DataSettings


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataSection(_Section):
    """The device's own files, as in a run's `data`; `data.DataSettings` checks them."""

    train: str | list[str] | None = None
    validation: str | None = None
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    columns: dict[str, str] = {}
    kind: Kind | None = None

    def of_device(self) -> "DataSettings":
        """Return the settings by which the files are read.  ConfigError without a file."""
        from leff.device.data import DataSettings

        if self.train is None:
            raise ConfigError(
                "the device has no data; give --data FILE, or data.train in its device.toml"
            )
        files = (self.train,) if isinstance(self.train, str) else tuple(self.train)
        return DataSettings(files, self.columns, self.validation, self.validation_share, self.kind)

    def check_files(self) -> None:
        """Raise ConfigError without a training file, DataError for one that is not there."""
        from leff.tasks.load import own_files

        files = own_files(self.of_device().files)
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise DataError(f"there is no file {missing[0]}; see --data")


class CapacitySettings(_Section):
    """What the device can do; `leff device join` measures memory and speed."""

    layers: Annotated[int, Field(ge=1, le=10**4)] | None = None
    memory: str | None = None
    speed: str | None = None
    down: str | None = None
    up: str | None = None

    @field_validator("memory", "speed", "down", "up")
    @classmethod
    def _readable(cls, text: str | None, about: Any) -> str | None:
        if text is not None:
            try:
                _AMOUNTS[about.field_name](text)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return text

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else parse_amount(self.memory, BYTES)

    def device(self, name: str) -> Device | None:
        """Return memory and speeds, or None if one of them is not known."""
        memory, speed, down, up = self.memory_bytes, self.speed, self.down, self.up
        if memory is None or speed is None or down is None or up is None:
            return None
        return Device(name, memory, parse_speed(speed), parse_link(down), parse_link(up))


def _bytes(text: str) -> int:
    return parse_amount(text, BYTES)


_AMOUNTS: dict[str, Callable[[str], float]] = {
    "memory": _bytes,
    "speed": parse_speed,
    "down": parse_link,
    "up": parse_link,
    "time": parse_seconds,
}


class LimitSettings(_Section):
    """What a job may ask of this device at most."""

    cache: str = "8GB"
    download: str = "8GB"
    upload: str = "4GB"
    time: str = "24h"
    epochs: Annotated[float, Field(gt=0)] = 100.0
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    least_cohort: Annotated[int, Field(ge=2, le=10**6)] | None = None

    @field_validator("cache", "download", "upload", "time")
    @classmethod
    def _readable(cls, text: str, about: Any) -> str:
        try:
            _AMOUNTS.get(about.field_name, _bytes)(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return text


class DeviceSettings(_Section):
    """`device.toml`."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = "device"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: str = "auto"
    data: DataSection = DataSection()
    capacity: CapacitySettings = CapacitySettings()
    limits: LimitSettings = LimitSettings()


def read_settings(path: Path, given: Mapping[str, Any]) -> DeviceSettings:
    """Return the settings in a file, with the `given` values in place of its own.

    ConfigError for a key or a value that is wrong.
    """
    values = _joined(read_toml(path, "settings of a device"), given)
    try:
        return DeviceSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{path}: unknown key {key}{_nearest(first['loc'])}") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {key}: {reason}, got {shown(first['input'])}") from None


def _nearest(path: Sequence[int | str]) -> str:
    """Return which key may be meant, or which there are in the section of a path."""
    section: Any = DeviceSettings
    for name in path[:-1]:
        section = section.model_fields[str(name)].annotation
    return nearest(str(path[-1]), section.model_fields)


def _joined(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values, with the given ones in place of those before."""
    merged = dict(values)
    for key, value in given.items():
        before = merged.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            value = _joined(cast("dict[str, Any]", before), cast("dict[str, Any]", value))
        merged[key] = value
    return merged
