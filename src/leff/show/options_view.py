"""A run's configuration beside the defaults: which options differ, and what each means."""

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml


def options_view(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every option of a configuration; ``default`` is None where none is set."""
    defaults, meanings = _defaults(), _meanings()
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


@cache
def _defaults() -> dict[str, Any]:
    return dict(_flat(tomllib.loads(commented_toml())))


@cache
def _meanings() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in RunConfig.model_fields.items():
        found[name] = field.description or ""
        options = getattr(field.annotation, "model_fields", {})
        found |= {f"{name}.{key}": each.description or "" for key, each in options.items()}
    return found
