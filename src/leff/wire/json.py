"""Messages as strict JSON, and back.

    text = to_json(job)
    from_json(Job, text) == job          # floats to the bit, tuples are tuples
    job_digest(job)                      # SHA-256 of its JSON

A text from outside is taken only if it says exactly what `to_json` writes of the message that it
describes: every key and no other, each once, and each value of the field's own type.  `True` is no
1, "3" is no 3, and there is no NaN and no infinity.  An update's payload does not go into JSON.
"""

import hashlib
import json
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from leff.errors import RunError, one_line, shown

Message = TypeVar("Message")
MOST_BYTES = 2**20  # of a text; a job for a large model has a tenth of it
NOT_SENT = ("payload",)  # fields that travel in another way
STRICT = ConfigDict(
    strict=True,
    extra="forbid",
    allow_inf_nan=False,
    ser_json_bytes="base64",
    val_json_bytes="base64",
)


def to_json(message: object) -> str:
    """Return a frozen dataclass as JSON, in one line.

    Raises RunError for a value that JSON, or the field, does not have.
    """
    kind = type(message)
    try:
        values = _adapter(kind).dump_python(
            (message,), mode="json", warnings="error", exclude={0: set(NOT_SENT)}
        )
        return json.dumps(values[0], separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise RunError(one_line(f"a message ({kind.__name__}) cannot be sent: {error}")) from None


def from_json(kind: type[Message], text: str | bytes, most_bytes: int = MOST_BYTES) -> Message:
    """Return the message of a class that a JSON text describes.

    Raises RunError, with what is wrong in one line, for any text that `to_json` would not write of
    it, apart from the order of keys and the space between values.
    """
    try:
        read = _parsed(text, most_bytes)
        message = _adapter(kind).validate_json(json.dumps([read], allow_nan=False))[0]
        _check_same(read, json.loads(to_json(message)), "")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"][1:])) or "the text"
        reason = f"{where}: {first['msg']}, got {shown(first['input'])}"
        raise RunError(_unread(kind, reason)) from None
    except (ValueError, RecursionError, RunError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise RunError(_unread(kind, reason)) from None
    return cast("Message", message)


def job_digest(job: object) -> str:
    """Return the SHA-256 of a job's JSON."""
    return hashlib.sha256(to_json(job).encode()).hexdigest()


@cache
def _adapter(kind: type) -> TypeAdapter[tuple[Any]]:
    wrapped = cast("Any", tuple)[kind]  # a bare dataclass takes no configuration
    return TypeAdapter(wrapped, config=STRICT)


def _unread(kind: type, reason: str) -> str:
    return one_line(f"a message ({kind.__name__}) cannot be read: {reason}")


def _parsed(text: str | bytes, most_bytes: int) -> Any:
    """Return the values of JSON; ValueError for what strict JSON has not."""
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a key comes twice")
        return values

    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return json.loads(raw.decode(), object_pairs_hook=once, parse_constant=refuse)


def _check_same(read: Any, written: Any, where: str) -> None:
    """Raise ValueError, with the place, where a text is not what its message says."""
    if isinstance(written, dict):
        own, other = cast("dict[str, Any]", read), cast("dict[str, Any]", written)
        for key in own.keys() ^ other.keys():
            raise ValueError(f"{where}{key} is {'missing' if key in other else 'unknown'}")
        for key, value in own.items():
            _check_same(value, other[key], f"{where}{key}.")
    elif isinstance(written, list):
        for place, (a, b) in enumerate(zip(read, cast("list[Any]", written), strict=True)):
            _check_same(a, b, f"{where}{place}.")
    elif read != written:
        raise ValueError(f"{where[:-1]} is {shown(read)}, which is read as {shown(written)}")
