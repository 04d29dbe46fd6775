"""The gateway's settings: ``gateway`` in DIR/server.json, where other keys may stand beside it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from leff.errors import ConfigError, shown

SETTINGS = "server.json"
SECRET_BYTES = 32


@dataclass(frozen=True)
class GatewaySettings:
    """Where the gateway listens, and what it serves.

    `superlink` is the SuperLink's URL on this machine, and `superlink_authority` what its
    certificate is checked with; None if it has none.  `federation` is the id that devices expect.
    """

    host: str
    port: int
    certificate: Path
    key: Path
    grants: Path
    secret: Path
    federation: str
    superlink: str
    superlink_authority: Path | None = None
    log: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what stands under ``gateway`` in `SETTINGS`."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}


def read_settings(folder: Path) -> GatewaySettings:
    """Return the settings under ``gateway`` in `SETTINGS`; its paths are relative to `folder`.

    ConfigError if the file cannot be read, or for a key that is missing, unknown or of another
    kind.
    """
    path = folder / SETTINGS
    try:
        values = cast("dict[str, Any]", json.loads(path.read_bytes())["gateway"])
        paths = ["certificate", "key", "grants", "secret", "superlink_authority", "log"]
        found = {k: folder / values[k] for k in paths if values.get(k) is not None}
        settings = GatewaySettings(**{**values, **found})
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; run server init") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no settings of a server ({error}); run server init") from None
    if type(settings.port) is not int or not 0 <= settings.port < 2**16:
        raise ConfigError(f"{path}: port must be from 0 to 65535, got {shown(settings.port)}")
    for name in ("host", "federation", "superlink"):
        if type(getattr(settings, name)) is not str:
            raise ConfigError(f"{path}: {name} must be a text")
    return settings


def read_secret(path: Path) -> bytes:
    """Return the server's secret.  ConfigError if it cannot be read or is too short to be one."""
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"secret {path} cannot be read: {error.strerror}; restore it") from None
    if len(secret) < SECRET_BYTES:
        raise ConfigError(f"secret {path} has {len(secret)} bytes, not {SECRET_BYTES}; restore it")
    return secret
