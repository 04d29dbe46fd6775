"""The seam between the fleet and whatever reaches devices: a server's network, or a simulation.

ServerNetwork(...).present()         # {node id: Member(key, number)}
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from leff.network.grants import Grant, Traffic
from leff.network.superlink import LinkLostError
from leff.wire.asks import DeviceReport


@dataclass(frozen=True)
class Member:
    """A device that is there: its key's fingerprint, its place among those admitted, its name."""

    key: str
    number: int
    name: str = ""

    @property
    def text(self) -> str:
        """What people call it: ``device 2 (site2, fcc6f60dee0634d9)``."""
        return f"device {self.number} ({', '.join(filter(None, (self.name, self.key)))})"


class Network(Protocol):
    """Reaches devices.  Calls that go out raise LinkLostError if nobody answers."""

    federation: str

    def present(self) -> dict[int, Member]:
        """Return the admitted devices that are there, by node id; none without a link."""
        ...

    def push(self, texts: Sequence[tuple[int, str]], seconds: float) -> dict[str, int]:
        """Send texts to nodes, as `network.superlink.Link.push`."""
        ...

    def pull(self, messages: Collection[str]) -> list[tuple[str, str | None]]:
        """Return answers, as `network.superlink.Link.pull`."""
        ...

    def lost(self, error: LinkLostError) -> None:
        """Wait a little, and reach the devices in a new way."""
        ...

    def issue(self, grant: Grant) -> str:
        """Let a device fetch and send what a grant says; return the token."""
        ...

    def revoke(self, token: str) -> None:
        """End a grant."""
        ...

    def traffic(self, token: str) -> Traffic:
        """Return the bytes that were transferred under a token."""
        ...

    def reported(self, key: str, report: DeviceReport) -> None:
        """Note a device's report, for people."""
        ...

    def refused(self, key: str, why: str) -> None:
        """Note why a device takes no part, for people."""
        ...

    def working(self, round: int) -> None:
        """Note that a round (from 1) is under way, for people."""
        ...

    def close(self) -> None:
        """Say that the run is over."""
        ...
