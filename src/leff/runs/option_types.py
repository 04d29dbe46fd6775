"""Kinds of values that options have, and what no value may be.

    rate: Rate = 1e-4          # in a `Section`

A section takes no unknown keys and no value of another type.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from leff.errors import ConfigError, shown
from leff.files import expanded
from leff.units import amount_text

MOST_EPOCHS = 10**4
Picked = TypeVar("Picked")
LONGEST_TEXT, MOST_ENTRIES = 4096, 10_000  # of an option; a run's config.toml stays readable
LARGEST = 10**12  # of any number; a JSON reader keeps it exact


def _amount_text(value: Any) -> str:
    try:
        return amount_text(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None


Positive = Annotated[int, Field(ge=1, le=10**9)]  # what there is of the counted limits it further
BatchSize = Annotated[int, Field(ge=1, le=4096)]
AboveZero = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]  # AdamW moves a weight by about the rate in a step
Seconds = Annotated[float, Field(ge=0, le=604_800)]  # a week
Amount = Annotated[
    str,
    BeforeValidator(_amount_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
CountOrAll = Annotated[
    Positive | None,
    BeforeValidator(lambda v: None if isinstance(v, str) and v == "all" else v),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": "all"}]}),
]


def _epochs(value: Any) -> float | str:
    """Return a number of epochs, or "auto"."""
    if value == "auto":
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 < value <= MOST_EPOCHS:
        return float(value)
    raise PydanticCustomError(
        "epochs_type",
        "must be a number above 0 and at most {most}, or 'auto'",
        {"most": MOST_EPOCHS},
    )


Epochs = Annotated[
    float | Literal["auto"],
    PlainValidator(_epochs),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_EPOCHS},
                {"const": "auto"},
            ]
        }
    ),
]


def _below(value: Any, base: Path) -> Any:
    """Return a path, or each path of a list, from `base`; anything else as it is."""
    if isinstance(value, list):
        return [_below(each, base) for each in cast("list[Any]", value)]
    return base / expanded(value) if isinstance(value, str | Path) else value


def _paths(value: Any) -> Any:
    """Return the value if it is a path, a list of paths, or None."""
    each = cast("list[Any]", value) if isinstance(value, list) else [value]
    if value is None or (each and all(isinstance(path, str | Path) for path in each)):
        return cast(Any, value)
    raise PydanticCustomError("files_type", "must be a path, a pattern, or a list of these")


Files = Annotated[Path | list[Path] | None, BeforeValidator(_paths)]


class Section(BaseModel):
    """A group of options: frozen, no unknown keys, no infinities, and no value of another type.

    A text is no number, ``true`` is no 1, and 8.0 is no whole number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """Refuse what no option needs, and what `config.toml` or a file system cannot hold."""
        for each in _parts(value):
            if isinstance(each, str | Path):
                _check_text(str(each))
            if isinstance(each, Path):
                check_path(each)
            elif isinstance(each, int | float) and abs(each) > LARGEST:
                raise ValueError(f"must be at most 10^12, got {shown(each)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _absolute(cls, values: Any) -> Any:
        """Make paths absolute, so that a run can be resumed from another directory.

        Files are relative to `folder` if it is given.
        """
        if not isinstance(values, Mapping):
            return values
        options, base = dict(cast("Mapping[str, Any]", values)), Path.cwd()
        for key in ("folder", "train", "validation", "test", "fleet", "server"):
            options |= {key: _below(options[key], base)} if key in options else {}
            if key == "folder" and isinstance(options.get(key), Path):
                base = options[key]
        return options


def _parts(value: Any) -> Iterable[Any]:
    """Yield a value, or the entries of a list or table; ValueError for too many entries."""
    if not isinstance(value, list | dict):
        yield value
        return
    entries = cast("list[Any] | dict[str, Any]", value)
    if len(entries) > MOST_ENTRIES:
        raise ValueError(f"has {len(entries)} entries; the most is {MOST_ENTRIES}")
    yield from entries
    yield from entries.values() if isinstance(entries, dict) else ()


def _check_text(text: str) -> None:
    """Raise ValueError for a text that is too long, has NUL, or cannot be UTF-8."""
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"must have at most {LONGEST_TEXT} characters, got {shown(text)}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"must be text in UTF-8, got {shown(text)}") from None
    if "\0" in text:
        raise ValueError(f"must have no NUL character, got {shown(text)}")


def check_path(path: Path) -> None:
    """Raise ValueError for a path that cannot be looked up.  It need not exist."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ValueError(f"is no usable path ({error.strerror}), got {shown(str(path))}") from None


def picked(kind: type[Picked], section: Section) -> Picked:
    """Return a dataclass whose fields are filled from a section's options of the same names."""
    names = (each.name for each in fields(kind) if hasattr(section, each.name))  # pyright: ignore[reportArgumentType]
    return kind(**{name: getattr(section, name) for name in names})
