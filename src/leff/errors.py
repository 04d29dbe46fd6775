"""Every error that LEFF raises on purpose.

    LeffError
    ├── UsageError            what was asked for cannot be done as asked; exit status 2
    │   ├── ConfigError       a key, a value, or two values that do not fit together
    │   ├── DataError         a file, column, row or label
    │   └── ModelError        an architecture, a checkpoint or a tokenizer
    └── RunError              the work itself failed; exit status 1
        ├── CheckpointError   no checkpoint of a run can be read
        ├── MetricError       a metric's own program failed
        └── NetworkError      the other side cannot be reached, or what it sent is wrong
            ├── RefusedError    the server refuses a token, a part or an upload
            └── SecureSumError  a sum under masks cannot go on, or a message of it is wrong

A message says what was wrong, names the value, and gives the remedy.  A client that fails is
data (`wire.messages.Update.failure`), not an exception.
"""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST_VALUE, LONGEST_LINE = 80, 2000  # characters of a value and of a whole message


class LeffError(Exception):
    """The root of the tree."""

    exit_status = 1


class UsageError(LeffError):
    """What was asked for cannot be done as asked."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration key or value is wrong."""


class DataError(UsageError):
    """A data file, column, row or label is wrong."""


class ModelError(UsageError):
    """A model, its architecture or its tokenizer cannot be used."""


class RunError(LeffError):
    """The work itself failed."""


class CheckpointError(RunError):
    """No checkpoint of a run folder can be read."""


class BudgetError(RunError):
    """What would be released passes the privacy budget."""


class MetricError(RunError):
    """A metric could not be computed."""


class NetworkError(RunError):
    """The other side of the network cannot be reached or trusted, or what it sent is wrong."""


class RefusedError(NetworkError):
    """The server refuses a token, a part or an upload; to try again is no use."""


class SecureSumError(NetworkError):
    """A sum under masks cannot go on.  `client` is whose message is wrong, if it is one's."""

    def __init__(self, message: str, client: int | None = None) -> None:
        super().__init__(message)
        self.client = client


class _Cut(reprlib.Repr):
    """A `repr` that looks at a few entries and levels only, however large the value is."""

    def repr_int(self, x: int, level: int) -> str:
        # more than 4300 digits are no text in Python
        return f"a number of {x.bit_length()} bits" if x.bit_length() > 256 else repr(x)


_CUT = _Cut()
_CUT.maxstring = _CUT.maxother = _CUT.maxlong = LONGEST_VALUE
_CUT.maxlevel = 3


def shown(value: object) -> str:
    """Return a value as a message shows it: its `repr`, cut to `LONGEST_VALUE` characters."""
    text = _CUT.repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def key_part(part: object) -> str:
    """Return a part of a dotted key as a message shows it: bare if it is a short name."""
    text = str(part)
    bare = text.replace(".", "_").replace("-", "_").isidentifier() or isinstance(part, int)
    return text if bare and len(text) <= LONGEST_VALUE else shown(part)


def one_line(message: str) -> str:
    """Return a message in one line of at most `LONGEST_LINE` characters.

    Characters that a terminal does not print are escaped.
    """
    flat = " ".join(line.strip() for line in message.splitlines())[:LONGEST_LINE]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in flat)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the known name closest to `name`, or else all known names."""
    known = list(known)
    match = get_close_matches(name[:LONGEST_VALUE], known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else f"; known are: {', '.join(known)}"
