"""How long something is tried again, on a clock that nobody sets.

patience = Patience(seconds=600)
while True:
    try:
        return transfer()        # calls patience.moved() as bytes pass
    except TryAgainError as error:
        patience.wait(error)     # or raises NetworkError
"""

import logging
import random
import time

from leff.errors import NetworkError

FIRST_SECONDS, LONGEST_SECONDS = 0.5, 15.0  # before the next try
log = logging.getLogger("leff.device")


class TryAgainError(NetworkError):
    """Something failed that may go well the next time."""


class Patience:
    """Ends `seconds` after the last byte, or at `until` (`time.monotonic`) whatever passes."""

    def __init__(self, seconds: float, until: float | None = None) -> None:
        self.seconds, self.until = seconds, until
        self._random = random.Random()  # so that devices do not all come back at once
        self._start()

    def moved(self) -> None:
        """Note that bytes pass.  NetworkError after `until`."""
        self._start()
        if self.until is not None and self._last > self.until:
            raise NetworkError("the time for this transfer is over")

    def wait(self, error: TryAgainError) -> None:
        """Wait before the next try, or raise NetworkError if no time is left for one."""
        seconds = self._wait * self._random.uniform(0.5, 1.0)
        self._wait = min(2 * self._wait, LONGEST_SECONDS)
        ends = self._last + self.seconds
        if self.until is not None:
            ends = min(ends, self.until)
        if time.monotonic() + seconds > ends:
            raise NetworkError(f"{error} (given up)") from None
        log.info("%s; next try in %.1f s", error, seconds)
        time.sleep(seconds)

    def _start(self) -> None:
        self._last, self._wait = time.monotonic(), FIRST_SECONDS
