"""Every error that LEFF raises on purpose.

    LeffError
    ├── UsageError            what was asked for cannot be done as asked; exit status 2
    │   ├── ConfigError       a key, a value, or two values that do not fit together
    │   ├── DataError         a file, column, row or label
    │   └── ModelError        an architecture, a checkpoint or a tokenizer
    └── RunError              the work itself failed; exit status 1
        ├── CheckpointError   no checkpoint of a run can be read
        └── MetricError       a metric's own program failed

A message says what was wrong, names the value, and gives the remedy.  A client that fails is
data (`wire.messages.Update.failure`), not an exception.
"""

from collections.abc import Iterable
from difflib import get_close_matches


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


class MetricError(RunError):
    """A metric could not be computed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message: the known name closest to `name`, or else all known names."""
    known = list(known)
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else f"; known are: {', '.join(known)}"


def shown(value: object) -> str:
    """Return a short text for a value of any type, such as may come from outside."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    small = isinstance(value, int) and abs(value) < 10**20
    if value is None or isinstance(value, float) or small:
        return repr(value)
    return f"a value of type {type(value).__name__}"
