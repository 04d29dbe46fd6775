"""What devices report: asked for once, believed with care, and kept while they are there.

    reports = Reports(asker, inbox, most_clients=1)
    reports.ask(network.present())        # asks who is new, and takes in what has been answered
    reports.of("3f0c…").shares            # numbers of examples

A device that does not report, or refuses, takes no part.  It is asked again later.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from leff.engines.flower.asker import Asker, read_answer
from leff.engines.flower.exchange import LONGEST_SILENT_SECONDS, patience
from leff.engines.flower.roster import Place
from leff.engines.flower.seam import Member
from leff.network.superlink import LinkLostError
from leff.wire.asks import Answer, Ask, DeviceReport
from leff.wire.json import to_json
from leff.wire.own_words import own_words

log = logging.getLogger("leff.network")
REFUSED_SECONDS = 20.0  # before a device that sent no report is asked again
REPORT_SECONDS = 30.0  # that a round waits once for a device that reads its data
TWO_SECONDS = 120.0  # since the last sign of two processes with one key, before one is believed


class Reports:
    """The reports of a run's devices, by the fingerprints of their keys."""

    def __init__(self, asker: Asker, inbox: Path, most_clients: int) -> None:
        """A device may be `most_clients` clients; `inbox` is for updates, of which none comes."""
        self._asker, self._inbox, self._most_clients = asker, inbox, most_clients
        self.refused: dict[str, str] = {}  # why devices take no part
        self._known: dict[str, DeviceReport] = {}
        self._sessions: dict[str, list[str]] = {}
        self._two_at: dict[str, float] = {}  # when two processes were last seen to use a key
        self._asked: dict[str, str] = {}  # asks that are under way: their keys
        self._ask_at: dict[str, float] = {}  # when to ask a device again
        self._times = Counter[str]()  # how often each was asked without an answer
        self._first_asked: dict[str, float] = {}
        self._tokens: dict[str, list[str]] = {}  # of the last two asks
        self._names: dict[str, str] = {}  # what people call devices

    def of(self, key: str) -> DeviceReport | None:
        """Return a device's report, or None if it has not reported."""
        return self._known.get(key)

    def places(self, present: Mapping[int, Member]) -> list[Place]:
        """Return the clients of devices that have reported, in the order of admission."""
        devices = sorted(present.values(), key=lambda device: device.number)
        return [
            (device.key, share)
            for device in devices
            if device.key in self._known
            for share, own in enumerate(self._known[device.key].shares)
            if own.examples > 0
        ]

    def ask(self, present: Mapping[int, Member]) -> None:
        """Ask the devices that have not reported, and take in what has been answered so far."""
        now = time.monotonic()
        self._names |= {device.key: device.text for device in present.values()}
        new = [
            (node, device.key)
            for node, device in present.items()
            if device.key not in self._known and now >= self._ask_at.get(device.key, now)
        ]
        try:
            if new:
                texts = [(node, to_json(self._ask_of(key))) for node, key in new]
                sent = self._asker.network.push(texts, LONGEST_SILENT_SECONDS)
                self._asked |= {name: new[place][1] for name, place in sent.items()}
                for _, key in new:
                    self._first_asked.setdefault(key, now)
                    self._times[key] += 1
                    self._ask_at[key] = now + patience(self._times[key])
            for message, answer in self._asker.network.pull(self._asked):
                key = self._asked.pop(message)
                self._times.pop(key, None)
                self._ask_at[key] = time.monotonic() + REFUSED_SECONDS  # if it is no report
                if answer is not None:
                    self.take(key, read_answer(answer, "report"))
        except LinkLostError as error:
            self._asker.network.lost(error)
            self.forget_asks()

    def name_of(self, key: str) -> str:
        """Return what people call a device, by its key's fingerprint."""
        return self._names.get(key, f"device {key}")

    def forget_asks(self) -> None:
        """Forget the asks that are under way: the link that they went by is lost."""
        self._asked.clear()
        self._ask_at.clear()

    def _ask_of(self, key: str) -> Ask:
        """Return the ask for a device's report, with a token for the tokenizer.

        The token of the ask before stays good: the device may be at that one.
        """
        tokens = self._tokens.setdefault(key, [])
        tokens.append(self._asker.grant(key, "report", [], 0, self._inbox))
        for token in tokens[:-2]:
            self._asker.network.revoke(token)
        del tokens[:-2]
        return self._asker.ask("report", tokens[-1])

    def reading(self, present: Mapping[int, Member]) -> bool:
        """Return whether a device that was asked for the first time may still be at it."""
        under_way, now = {*self._asked.values()} - {*self._known}, time.monotonic()
        return any(
            device.key in under_way and now - self._first_asked[device.key] < REPORT_SECONDS
            for device in present.values()
        )

    def take(self, key: str, answer: Answer) -> None:
        """Believe a device's report, or note why it takes no part."""
        report = answer.report
        if report is None or answer.refusal:
            self._refuse(key, own_words(answer.refusal) or "it sends no report")
            return
        if len(report.shares) > self._most_clients:
            most = self._most_clients
            self._refuse(
                key, f"it has {len(report.shares)} clients, engine.device_clients = {most}"
            )
            return
        if self._shared(key, report.session):
            self._refuse(key, "two processes use this key; each device needs a key of its own")
            return
        self.refused.pop(key, None)
        self._known[key] = report
        self._asker.network.reported(key, report)

    def _shared(self, key: str, session: str) -> bool:
        """Return whether two processes use a key: one that was replaced by another is back.

        That is over once one of them alone has reported for `TWO_SECONDS`, or the device was
        started again.
        """
        now, sessions = time.monotonic(), self._sessions.setdefault(key, [])
        if sessions[-1:] != [session]:
            if session in sessions:
                self._two_at[key] = now
                sessions.remove(session)
            else:
                self._two_at.pop(key, None)
            sessions.append(session)
        if key not in self._two_at:
            return False
        if now - self._two_at[key] < TWO_SECONDS:
            return True
        del self._two_at[key]
        sessions[:] = [session]
        return False

    def _refuse(self, key: str, why: str) -> None:
        """Let a device take no part until it reports anew."""
        if self.refused.get(key) != why:
            log.warning("%s takes no part: %s", self.name_of(key), why)
            self._asker.network.refused(key, why)
        self.refused[key] = why
        self._known.pop(key, None)

    def close(self) -> None:
        """End the grants, and say who took no part."""
        for token in itertools.chain.from_iterable(self._tokens.values()):
            self._asker.network.revoke(token)
        for key, why in self.refused.items():
            log.warning("%s took no part: %s", self.name_of(key), why)
