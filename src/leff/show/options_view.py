"""A run's configuration beside the defaults: which options differ, and what each means."""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from leff.errors import ConfigError
from leff.runs.config import parse_config
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml
from leff.runs.unused import defaults_of

CHOSEN = ("preset", "data.task", "method.name", "privacy.")  # on which other defaults depend


def options_view(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every option of a configuration; ``default`` is None where none is set."""
    defaults, meanings = _defaults_beside(config), _meanings()
    return [
        {
            "key": key,
            "value": value,
            "default": defaults.get(key),
            "changed": value != defaults.get(key),
            "meaning": meanings.get(key, ""),
        }
        for key, value in _flat(config)
    ]


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every option by its dotted key."""
    for name, value in config.items():
        if isinstance(value, dict) and name in RunConfig.model_fields:
            section = cast("dict[str, Any]", value)
            yield from ((f"{name}.{key}", own) for key, own in section.items())
        else:
            yield name, value


def _defaults_beside(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run with this preset, method and privacy has by default, but for these."""
    try:
        beside = _values(defaults_of(parse_config(config)))
    except ConfigError:  # of another version
        beside = {}
    kept = {key: value for key, value in beside.items() if not key.startswith(CHOSEN)}
    return {**_values(RunConfig()), **kept}


def _values(config: RunConfig) -> dict[str, Any]:
    return dict(_flat(tomllib.loads(commented_toml(config))))


@cache
def _meanings() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in RunConfig.model_fields.items():
        found[name] = field.description or ""
        options = getattr(field.annotation, "model_fields", {})
        found |= {f"{name}.{key}": each.description or "" for key, each in options.items()}
    return found
