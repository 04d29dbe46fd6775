"""Reads and checks configurations.  The options themselves are in `options.py`.

config = load_config(Path("experiments/e2e.toml"), {"training.rounds": 5})
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from leff.errors import ConfigError, nearest
from leff.runs.options import RunConfig


def parse_config(values: Mapping[str, Any], origin: str = "the configuration") -> RunConfig:
    """Return the checked configuration.  Raises ConfigError naming key, value and remedy."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise ConfigError(f"{origin}: {problems}") from None


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a TOML file (the defaults without one).

    `overrides` maps dotted keys ("training.rounds") to values, and wins over the file.  Relative
    paths are taken from the working directory, and kept as absolute ones.  Raises ConfigError.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"there is no file {path}; `leff config` prints one to start from"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    for key, value in (overrides or {}).items():
        _set(values, key, value)
    return parse_config(values, str(path) if path else "the configuration")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner: Any = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key}: {section} is a value, not a section")
        values = cast("dict[str, Any]", inner)
    values[last] = value


def _explain(problem: Any) -> str:
    """Return one of pydantic's errors in our words: key, value, remedy."""
    key, kind, value = ".".join(map(str, problem["loc"])), problem["type"], problem["input"]
    limits, name = problem.get("ctx", {}), str(problem["loc"][-1]) if problem["loc"] else ""
    if kind == "extra_forbidden":
        return f"unknown key {key}{_nearest_key(name, problem['loc'][:-1])}"
    if kind == "literal_error":
        section: Any = RunConfig
        for part in problem["loc"][:-1]:
            section = section.model_fields[str(part)].annotation
        known = get_args(section.model_fields[name].annotation)
        if not all(isinstance(each, str) for each in known):
            return f"{key} cannot be {value!r}; known are: {', '.join(map(str, known))}"
        return f"{key} cannot be {value!r}{nearest(str(value), known)}"
    if kind == "model_type":
        return f"{key} is a section, got {value!r}; did you mean {key}.{_first_key(key)}?"
    if kind == "value_error":
        reason = problem["msg"].removeprefix("Value error, ")
        return f"{key}: {reason}" if key else reason
    demand = {
        "greater_than_equal": f"must be at least {limits.get('ge')}",
        "greater_than": f"must be above {limits.get('gt')}",
        "less_than_equal": f"must be at most {limits.get('le')}",
        "less_than": f"must be below {limits.get('lt')}",
        "too_short": "must not be empty",
        "finite_number": "must be a finite number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "int_type": "must be a whole number",
        "float_parsing": "must be a number",
        "float_type": "must be a number",
        "string_type": "must be text",
        "list_type": "must be a list",
        "path_type": "must be a path",
        "dict_type": "must be a table",
    }.get(kind, problem["msg"][:1].lower() + problem["msg"][1:])
    return f"{key} {demand}, got {value!r}"


def _nearest_key(name: str, sections: tuple[Any, ...]) -> str:
    """Return a hint for an unknown key, with the section if only that is missing."""
    if sections:
        section: Any = RunConfig.model_fields[str(sections[0])].annotation
        return nearest(name, section.model_fields)
    full = {bare: keys[0] for bare, keys in _by_bare_name().items() if len(keys) == 1}
    known = {**full, **{key: key for key in RunConfig.model_fields}}
    match = get_close_matches(name, known, n=1)
    if match:
        return f"; did you mean {known[match[0]]!r}?"
    return f"; sections are: {', '.join(RunConfig.model_fields)}"


def _by_bare_name() -> dict[str, list[str]]:
    """Return, for each bare option name, the full names that end in it."""
    keys: dict[str, list[str]] = {}
    for section, field in RunConfig.model_fields.items():
        for option in getattr(field.annotation, "model_fields", {}):
            keys.setdefault(option, []).append(f"{section}.{option}")
    return keys


def _first_key(section: str) -> str:
    annotation: Any = RunConfig.model_fields[section].annotation
    return next(iter(annotation.model_fields))


def full_key(key: str, value: Any = None) -> str:
    """Return the dotted key of an option given by its bare name, if only one section has it.

    A section's own name with a plain value stands for its first option: ``model="gpt2"`` is
    ``model.name``.  Raises ConfigError for a bare name that several sections have.
    """
    if "." in key:
        return key
    if key in RunConfig.model_fields:
        section = getattr(RunConfig.model_fields[key].annotation, "model_fields", None)
        return f"{key}.{_first_key(key)}" if section and isinstance(value, str | Path) else key
    places = _by_bare_name().get(key, [])
    if len(places) > 1:
        raise ConfigError(f"option {key!r} could be {' or '.join(places)}; give the full name")
    return places[0] if places else key
