"""A network of made-up devices, in a time of its own, for tests of the fleet.

network = FakeNetwork(clock, {7: device("a", 1, examples=(5,))})
network.devices[7].answer = lambda ask: "..."       # or SILENT, or LOST
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from leff.engines.flower.seam import Member
from leff.network.grants import Traffic
from leff.network.superlink import LinkLostError
from leff.wire.asks import Answer, Ask, DeviceReport, ShareReport
from leff.wire.json import from_json, to_json
from leff.wire.messages import Job, Update

SILENT, LOST = "silent", "lost"  # instead of an answer


class Clock:
    """Stands for the module `time`: sleeping moves it, and `later` happens on the way."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.later: list[tuple[float, Callable[[], None]]] = []

    def monotonic(self) -> float:
        return self.now

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-3)
        for each in [each for each in self.later if each[0] <= self.now]:
            self.later.remove(each)
            each[1]()

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self.later.append((self.now + seconds, do))


@dataclass
class Device:
    """A made-up device; `answer` makes a text of an ask, which comes after `seconds`."""

    key: str
    number: int
    report: DeviceReport
    here: bool = True
    seconds: float = 0.0
    answer: Callable[[Ask], str] | None = None
    asks: list[tuple[float, Ask]] = field(default_factory=list)

    def answers(self, ask: Ask) -> str:
        if ask.about == "report" or self.answer is None:
            return to_json(reply(self, ask))
        return self.answer(ask)


def device(key: str, number: int, examples: tuple[int, ...] = (5,), **values: Any) -> Device:
    shares = tuple(ShareReport(count, 0) for count in examples)
    return Device(key, number, DeviceReport("0", f"session {key}", "d" * 64, shares), **values)


def reply(of: Device, ask: Ask, **changes: Any) -> Answer:
    """Return a good answer; an update has no payload, so its digest is of no file."""
    answer = Answer(ask.about, of.report)
    if ask.about == "train":
        job = from_json(Job, ask.job)
        update = Update(job.round, job.client, job.block, examples=5, steps=1)
        answer = replace(answer, update=to_json(update), digest="a" * 64)
    return replace(answer, **changes)


class FakeNetwork:
    """Implements `seam.Network`; `events` has what happened, in order."""

    federation = "f" * 16

    def __init__(self, clock: Clock, devices: dict[int, Device]) -> None:
        self.clock, self.devices = clock, devices
        self.sent: dict[str, tuple[int, float, str]] = {}
        self.losses, self.grants, self.revoked = 0, {}, []
        self.down = 0  # calls that find no link
        self.closed = False
        self.noted: dict[str, DeviceReport] = {}
        self.refusals: list[tuple[str, str]] = []

    def present(self):
        return {node: Member(d.key, d.number) for node, d in self.devices.items() if d.here}

    def push(self, texts, seconds):
        self._link()
        names: dict[str, int] = {}
        for place, (node, text) in enumerate(texts):
            ask, to = from_json(Ask, text), self.devices[node]
            to.asks.append((self.clock.now, ask))
            name = f"message {len(self.sent)}"
            self.sent[name] = (node, self.clock.now + to.seconds, to.answers(ask))
            names[name] = place
        return names

    def pull(self, messages):
        self._link()
        came = []
        for name in messages:
            _, ready, text = self.sent[name]
            if text != SILENT and ready <= self.clock.now:
                came.append((name, None if text == LOST else text))
        return came

    def _link(self):
        if self.down:
            self.down -= 1
            raise LinkLostError("the SuperLink is not there")

    def lost(self, error):
        self.losses += 1
        self.clock.sleep(1.0)

    def issue(self, grant):
        token = f"token {len(self.grants)}"
        self.grants[token] = grant
        return token

    def revoke(self, token):
        self.revoked.append(token)

    def traffic(self, token):
        return Traffic(100, 10, 1)

    def refused(self, key, why):
        self.refusals.append((key, why))

    def working(self, round):
        self.round = round

    def reported(self, key, report):
        self.noted[key] = report

    def close(self):
        self.closed = True
