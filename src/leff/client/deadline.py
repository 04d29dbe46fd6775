"""When a client stops, in time to send what it has.

deadline = Deadline(time.monotonic() + 60)
deadline.passed                             # looked at between steps
"""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadline:
    """When a client stops, by `time.monotonic`; with `partial`, what it has by then is of use."""

    until: float
    partial: bool = True

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.until

    def check(self) -> None:
        """Raise TimeoutError if it has passed."""
        if self.passed:
            raise TimeoutError
