"""Requests to clients that wait for answers: who is to be asked now, and who later.

state = Exchange("round 3", until, {0: Request("train", job, parts, upload_bytes)})
state.due()     # [0]
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from leff.wire.asks import About, Phase
from leff.wire.messages import Part

AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 0.5, 30.0  # after an ask that came to nothing
SILENT_SECONDS, LONGEST_SILENT_SECONDS = 15.0, 120.0  # without an answer: it may be lost or long


def patience(asked: int) -> float:
    """Return the seconds to wait for an answer after an ask, the first, second, ... of the same."""
    return min(LONGEST_SILENT_SECONDS, SILENT_SECONDS * 2 ** (asked - 1))


@dataclass(frozen=True)
class Request:
    """What one client is asked: the job as JSON, its parts, and the most bytes it may send.

    `phase` and `sum` are those of an ask in a secure sum.
    """

    about: About
    job: str
    parts: Sequence[Part]
    upload_bytes: int = 0
    phase: Phase = ""
    sum: str = ""


@dataclass
class Exchange:
    """Requests that wait for answers until `until` (`time.monotonic`), by client."""

    what: str
    until: float
    open: dict[int, Request]
    tokens: dict[int, str] = field(default_factory=dict[int, str])
    under_way: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    away: bool = False  # whether the SuperLink, or all clients at once, were not there
    lost: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])

    def due(self, again: bool = True) -> list[int]:
        """Return the clients to ask now; a silent one is asked `again` after a time."""
        now, asked = time.monotonic(), dict[int, list[float]]()
        for client, since in self.under_way.values():
            asked.setdefault(client, []).append(since)
        waiting = {c for c, at in asked.items() if not again or now - max(at) < patience(len(at))}
        waiting |= {client for client, (_, until) in self.lost.items() if now < until}
        return [client for client in self.open if client not in waiting]

    def lose(self, client: int) -> None:
        """Note that an ask came to nothing; the client is asked again a little later each time."""
        times = self.lost.get(client, (0, 0.0))[0] + 1
        wait = min(LONGEST_AGAIN_SECONDS, AGAIN_SECONDS * 2**times)
        self.lost[client] = times, time.monotonic() + wait
