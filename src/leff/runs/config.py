"""Reads and checks configurations.  The options themselves are in `options.py`.

config = load_config(Path("e2e.toml"), {"training.rounds": 5})
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import ValidationError

from leff.errors import LONGEST_VALUE, ConfigError, key_part, nearest, shown
from leff.runs.options import RunConfig
from leff.toml import read_toml

MOST_PROBLEMS = 8  # named in one message
LEVELS = 20  # of nested tables and lists


def parse_config(values: Mapping[str, Any], origin: str = "the configuration") -> RunConfig:
    """Return the checked configuration.  Raises ConfigError naming key, value and remedy.

    Values may be those of TOML, and what stands for them in Python: paths, tuples, sections,
    numbers and arrays of numpy.
    """
    try:
        return RunConfig.model_validate(_plain(values))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        named = "; ".join(map(_explain, problems[:MOST_PROBLEMS]))
        rest = len(problems) - MOST_PROBLEMS
        more = f"; and {rest} more" if rest > 0 else ""
        raise ConfigError(f"{origin}: {named}{more}") from None


def _plain(value: Any, levels: int = LEVELS) -> Any:
    """Return a value with Python's own tables, lists and numbers in place of their like.

    Raises ConfigError for one that is nested in more than `levels` levels.
    """
    if not levels:
        raise ConfigError(f"values may be nested in {LEVELS} levels, no more; no option needs it")
    if isinstance(value, Mapping):
        entries = cast("Mapping[Any, Any]", value).items()
        return {key: _plain(each, levels - 1) for key, each in entries}
    if isinstance(value, list | tuple):
        return [_plain(each, levels - 1) for each in cast("list[Any]", value)]
    return value.tolist() if hasattr(value, "tolist") else value  # numpy, torch


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a TOML file (the defaults without one).

    `overrides` maps dotted keys ("training.rounds") to values, and wins over the file.  Relative
    paths are taken from the working directory, and kept as absolute ones.  Raises ConfigError.
    """
    remedy = "; `leff config` prints one to start from"
    values = read_toml(path, remedy=remedy) if path is not None else {}
    merged = copy.deepcopy(values)
    for key, value in (overrides or {}).items():
        _set(merged, key, value)
    try:
        return parse_config(merged, str(path) if path else "the configuration")
    except ConfigError:
        if path is None or not overrides:
            raise
    parse_config(values, str(path))  # is the fault in the file?
    return parse_config(merged, f"{path} with the options given")


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key.  A table given for a section keeps the section's other options."""
    *sections, last = key.split(".")
    for section in sections:
        inner: Any = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key_part(key)}: {key_part(section)} is a value, not a section")
        values = cast("dict[str, Any]", inner)
    new, old = _plain(value), values.get(last)
    whole = sections or not isinstance(new, dict) or not isinstance(old, dict)
    values[last] = new if whole else {**cast("dict[str, Any]", old), **new}


def _explain(problem: Any) -> str:
    """Return one of pydantic's errors in our words: key, value, remedy."""
    loc, kind, value = problem["loc"], problem["type"], shown(problem["input"])
    key, limits = ".".join(map(key_part, loc)), problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key {key}{_nearest_key(str(loc[-1]), loc[:-1])}"
    if kind in ("literal_error", "int_parsing_size", "string_unicode") and (known := _known(loc)):
        given = problem["input"] if isinstance(problem["input"], str) else ""
        return f"{key} cannot be {value}{nearest(given, map(str, known))}"
    if kind == "model_type":
        return f"{key} is a section, got {value}; did you mean {key}.{_first_key(key)}?"
    if kind == "value_error":
        return f"{key} {problem['msg'].removeprefix('Value error, ')}".strip()
    demand = {
        "greater_than_equal": f"must be at least {limits.get('ge')}",
        "greater_than": f"must be above {limits.get('gt')}",
        "less_than_equal": f"must be at most {limits.get('le')}",
        "less_than": f"must be below {limits.get('lt')}",
        "too_short": "must not be empty",
        "string_too_short": "must not be empty",
        "string_unicode": "must be text in UTF-8",
        "finite_number": "must be a finite number",
        "int_from_float": "must be a whole number",
        "int_type": "must be a whole number",
        "float_type": "must be a number",
        "bool_type": "must be true or false",
        "string_type": "must be text",
        "list_type": "must be a list",
        "is_instance_of": "must be a path",
        "dict_type": "must be a table",
        "invalid_key": "must have text as key",
    }.get(kind, problem["msg"][:1].lower() + problem["msg"][1:])
    return f"{key} {demand}, got {value}"


def _known(loc: Sequence[Any]) -> list[Any]:
    """Return the values that a place in the configuration may have, [] if any."""
    found: Any = RunConfig
    for part in loc:
        fields = getattr(found, "model_fields", {})
        if part not in fields:
            break
        found = fields[part].annotation
    return [value for value in _literals(found) if isinstance(value, str | int)]


def _literals(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _literals(part)


def _nearest_key(name: str, sections: tuple[Any, ...]) -> str:
    """Return a hint for an unknown key, with the section if only that is missing."""
    if sections:
        section: Any = RunConfig.model_fields[str(sections[0])].annotation
        return nearest(name, section.model_fields)
    full = {bare: keys[0] for bare, keys in _by_bare_name().items() if len(keys) == 1}
    known = {**full, **{key: key for key in RunConfig.model_fields}}
    match = get_close_matches(name[:LONGEST_VALUE], known, n=1)
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
