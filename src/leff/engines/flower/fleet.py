"""The fleet of a server on the network: asks the devices that are there, and waits for answers.

    fleet = FlowerFleet(ServerNetwork(folder, settings), roster, task, arrivals, rules, ...)
    fleet.clients()                          # waits until enough are there
    for update in fleet.train(jobs): ...     # as they arrive, until the deadline

Asks and answers are small texts that go through the SuperLink.  Tensors go through the gateway: an
ask has a token, with which the device fetches its job's parts and sends its update.  An update is
on this machine's disk before the device answers.

A round ends when all have answered, when enough have, or at its deadline.  Who has not answered has
failed, and what comes later is refused, as its token is.  A device whose answer got lost is asked
again.  It does a job once, so that changes nothing.
"""

import logging
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Protocol

import torch

from leff.engines.flower.roster import Place, Roster
from leff.errors import RunError
from leff.files import make_folder
from leff.network.grants import Grant, Traffic
from leff.network.superlink import LinkLostError
from leff.wire.asks import About, Answer, Ask, DeviceReport
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, Part, TaskCard, Update
from leff.wire.own_words import own_words
from leff.wire.parts import PartStore

log = logging.getLogger("leff.network")
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 0.5  # between looks for answers
REPORT_LOOK_SECONDS = 0.1
REFUSED_SECONDS = 20.0  # before a device that sent no report is asked again
REPORT_SECONDS = 30.0  # that a round waits once for a device that reads its data
AGAIN_SECONDS, LONGEST_AGAIN_SECONDS = 0.5, 30.0  # after an ask that came to nothing
ASK_AGAIN_SECONDS = 120.0  # without an answer, in case that the ask got lost with a process
ROUND_TRIES = 3
GRACE_SECONDS = 600.0  # that a token outlives its round
LONG_SECONDS = 7 * 86_400.0  # of an ask without a deadline


@dataclass(frozen=True)
class FleetRules:
    """When a round starts and ends.

    `quorum` clients must be there, for which `wait_seconds` are spent.  A round ends after
    `deadline_seconds` (0: when all have answered).  `spare` is the share of clients that were asked
    beyond those that are needed.  With `partial`, a device sends what it has by the deadline.
    A device may be `most_clients` clients at most.  `layers` is what each client trains, repeated
    over the clients; () if each says so itself.
    `capacities` is what each client can do, if the server knows it, as in a simulation.  A client
    that has not answered for `ask_again_seconds` is asked again.
    """

    quorum: int = 1
    wait_seconds: float = 600.0
    deadline_seconds: float = 1800.0
    spare: float = 0.0
    partial: bool = True
    most_clients: int = 1
    layers: tuple[int, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    ask_again_seconds: float = ASK_AGAIN_SECONDS


@dataclass(frozen=True)
class Member:
    """A device that is there: its key's fingerprint, and its place in the order of admission."""

    key: str
    number: int


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

    def working(self, round: int) -> None:
        """Note that a round (from 1) is under way, for people."""
        ...

    def close(self) -> None:
        """Say that the run is over."""
        ...


@dataclass(frozen=True)
class _Request:
    """What one client is asked: the job as JSON, its parts, and the most bytes it may send."""

    about: About
    job: str
    parts: Sequence[Part]
    upload_bytes: int = 0


@dataclass
class _Exchange:
    """Requests that wait for answers until `until` (`time.monotonic`), by client."""

    what: str
    until: float
    open: dict[int, _Request]
    tokens: dict[int, str] = field(default_factory=dict[int, str])
    under_way: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    away: bool = False  # whether the SuperLink, or all clients at once, were not there
    lost: dict[int, tuple[int, float]] = field(default_factory=dict[int, tuple[int, float]])

    def due(self, ask_again_seconds: float) -> list[int]:
        """Return the clients to ask now."""
        now = time.monotonic()
        waiting = {c for c, since in self.under_way.values() if now - since < ask_again_seconds}
        waiting |= {client for client, (_, until) in self.lost.items() if now < until}
        return [client for client in self.open if client not in waiting]

    def lose(self, client: int) -> None:
        """Note that an ask came to nothing; the client is asked again a little later each time."""
        times = self.lost.get(client, (0, 0.0))[0] + 1
        wait = min(LONGEST_AGAIN_SECONDS, AGAIN_SECONDS * 2**times)
        self.lost[client] = times, time.monotonic() + wait


class FlowerFleet:
    """Clients by number (`Roster`); each is a file on an admitted device."""

    def __init__(
        self,
        network: Network,
        roster: Roster,
        task: TaskCard,
        tokenizer: Mapping[str, torch.Tensor],
        store: PartStore,
        arrivals: Path,
        rules: FleetRules,
        model_layers: int,
        upload_bytes: Callable[[Job], int],
    ) -> None:
        """`tokenizer` is the task's part, and `arrivals` is where updates arrive.

        `upload_bytes` bounds a job's update.
        """
        self._network, self._roster, self._task = network, roster, task
        self._tokenizer = tokenizer
        self._store, self._arrivals, self._rules = store, arrivals, rules
        self._model_layers, self._upload_bytes = model_layers, upload_bytes
        self._reports: dict[str, DeviceReport] = {}  # by fingerprint
        self._refused: dict[str, str] = {}
        self._sessions: dict[str, list[str]] = {}
        self._asked: dict[str, str] = {}  # asks for reports that are under way: their keys
        self._ask_at: dict[str, float] = {}  # when to ask a device for its report again
        self._first_asked: dict[str, float] = {}
        self._report_tokens: dict[str, str] = {}
        self.steady = False  # others may be there in a repeated round

    # Who is there

    def clients(self) -> Sequence[int]:
        """Return the clients that are there and have reported, once the quorum is met.

        Raises RunError if it is not met in time.
        """
        started, quorum = time.monotonic(), self._rules.quorum
        said = False
        while True:
            present = self._network.present()
            self._ask_reports(present)
            here = self._places(present)
            if len(here) >= quorum and not self._reading(present):
                self._roster.enter(here)  # in the order of admission, whoever came first
                return sorted(map(self._roster.id_of, here))
            waited = time.monotonic() - started
            if waited > self._rules.wait_seconds and len(here) < quorum:
                raise RunError(self._too_few(present, here))
            if not said and len(here) < quorum:
                log.warning("waiting for devices: %s", self._too_few(present, here))
                said = True
            time.sleep(REPORT_LOOK_SECONDS)

    def _too_few(self, present: Mapping[int, Member], here: Sequence[Place]) -> str:
        refused = "".join(f"; device {key} refuses: {why}" for key, why in self._refused.items())
        return (
            f"{len(here)} clients are there, and engine.quorum = {self._rules.quorum} are needed "
            f"({len(present)} devices are connected){refused}; see leff server status"
        )

    def _places(self, present: Mapping[int, Member]) -> list[Place]:
        """Return the clients of devices that have reported, in the order of admission."""
        devices = sorted(present.values(), key=lambda device: device.number)
        return [
            (device.key, share)
            for device in devices
            if device.key in self._reports
            for share, own in enumerate(self._reports[device.key].shares)
            if own.examples > 0
        ]

    def _ask_reports(self, present: Mapping[int, Member]) -> None:
        """Ask the devices that have not reported, and take in what has been answered so far."""
        now = time.monotonic()
        new = [
            (node, device.key)
            for node, device in present.items()
            if device.key not in self._reports and now >= self._ask_at.get(device.key, now)
        ]
        try:
            if new:
                texts = [(node, to_json(self._report_ask(key))) for node, key in new]
                sent = self._network.push(texts, ASK_AGAIN_SECONDS)
                self._asked |= {name: new[place][1] for name, place in sent.items()}
                for _, key in new:
                    self._first_asked.setdefault(key, now)
                    self._ask_at[key] = now + ASK_AGAIN_SECONDS
            for message, answer in self._network.pull(self._asked):
                key = self._asked.pop(message)
                self._ask_at[key] = time.monotonic() + REFUSED_SECONDS  # if it is no report
                if answer is not None:
                    self._take_report(key, _answer(answer, "report"))
        except LinkLostError as error:
            self._network.lost(error)
            self._asked.clear()
            self._ask_at.clear()

    def _report_ask(self, key: str) -> Ask:
        """Return the ask for a device's report, with a token for the tokenizer."""
        if key in self._report_tokens:
            self._network.revoke(self._report_tokens[key])
        token = self._token(key, "report", [self._task.tokenizer], 0, self._arrivals)
        self._report_tokens[key] = token
        return self._ask("report", token, 0.0)

    def _reading(self, present: Mapping[int, Member]) -> bool:
        """Return whether a device that was asked for the first time may still be at it."""
        under_way, now = set(self._asked.values()), time.monotonic()
        return any(
            device.key in under_way and now - self._first_asked[device.key] < REPORT_SECONDS
            for device in present.values()
        )

    def _take_report(self, key: str, answer: Answer) -> None:
        """Believe a device's report, or note why it takes no part."""
        report = answer.report
        if report is None or answer.refusal:
            self._refuse(key, own_words(answer.refusal) or "it sends no report")
            return
        if len(report.shares) > self._rules.most_clients:
            most = self._rules.most_clients
            self._refuse(
                key, f"it has {len(report.shares)} clients, engine.device_clients = {most}"
            )
            return
        sessions = self._sessions.setdefault(key, [])
        if report.session in sessions[:-1]:
            self._refuse(key, "two processes use this key; each device needs a key of its own")
            return
        if not sessions or sessions[-1] != report.session:
            sessions.append(report.session)
        self._refused.pop(key, None)
        self._reports[key] = report
        self._network.reported(key, report)

    def _refuse(self, key: str, why: str) -> None:
        """Let a device take no part until it reports anew."""
        if self._refused.get(key) != why:
            log.warning("device %s takes no part: %s", key, why)
        self._refused[key] = why
        self._reports.pop(key, None)

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        """Return what the clients' devices reported; the server checks it."""
        return [self._capacity(client) for client in clients if self._report_of(client)]

    def _report_of(self, client: int) -> DeviceReport | None:
        return self._reports.get(self._roster.places[client][0])

    def _capacity(self, client: int) -> Capacity:
        key, share = self._roster.places[client]
        report, given = self._reports[key], self._rules.layers
        if self._rules.capacities:
            own = report.shares[share]
            known = self._rules.capacities[client]
            return replace(known, examples=own.examples, validation=own.validation)
        own = self._model_layers if report.layers is None else report.layers
        layers = min(own, given[client % len(given)]) if given else own
        return Capacity(
            client=client,
            layers=min(layers, self._model_layers),
            examples=report.shares[share].examples,
            memory_bytes=report.memory_bytes,
            device=report.device,
            validation=report.shares[share].validation,
        )

    # Work

    def train(self, jobs: Sequence[Job]) -> Generator[Update]:
        """Yield updates as they arrive, and a failure for each client that does not answer."""
        if not jobs:
            return
        self._network.working(jobs[0].round + 1)
        enough = max(1, round(len(jobs) / (1 + self._rules.spare)))
        by_client = {job.client: job for job in jobs}
        asks = {
            job.client: _Request("train", to_json(job), job.parts, self._upload_bytes(job))
            for job in jobs
        }
        good = 0
        for client, token, answer in self._answers(asks, f"round {jobs[0].round}"):
            job = by_client[client]
            update = self._update(job, answer)
            traffic = self._network.traffic(token) if token else Traffic()
            yield replace(
                update,
                download_bytes=traffic.download_bytes,
                upload_bytes=traffic.upload_bytes,
            )
            good += update.failure is None
            if self._rules.spare and good >= enough:
                return

    def _update(self, job: Job, answer: Answer | None) -> Update:
        """Return what an answer says, with the payload as a file; the server checks it."""
        failed = Update(job.round, job.client, job.block, examples=0)
        if answer is None:
            return replace(failed, failure="no answer by the deadline")
        if answer.refusal or not answer.update:
            return replace(failed, failure=own_words(answer.refusal) or "it sends no update")
        try:
            update = from_json(Update, answer.update)
        except RunError:
            return replace(failed, failure="its update cannot be read")
        if (update.round, update.client) != (job.round, job.client):
            return replace(failed, failure="its update is of another round or client")
        if update.failure is not None:
            return replace(update, failure=own_words(update.failure) or "it failed")
        payload = self._inbox(job.client) / answer.digest
        if len(answer.digest) != 64 or not answer.digest.isalnum() or not payload.is_file():
            return replace(failed, failure="its update did not arrive")
        return replace(update, payload=payload)

    def measure(self, jobs: Sequence[MeasureJob]) -> Generator[Measure]:
        """Yield what clients measured as it arrives, and a failure for those that do not answer."""
        asks = {job.client: _Request("measure", to_json(job), job.parts) for job in jobs}
        by_client = {job.client: job for job in jobs}
        for client, _, answer in self._answers(asks, "measure"):
            job = by_client[client]
            failed = Measure(job.round, client, 0)
            if answer is None or answer.refusal or not answer.measure:
                why = "no answer by the deadline" if answer is None else own_words(answer.refusal)
                yield replace(failed, failure=why or "it sends no measure")
                continue
            try:
                measured = from_json(Measure, answer.measure)
            except RunError:
                yield replace(failed, failure="its measure cannot be read")
                continue
            if measured.failure is not None:
                measured = replace(failed, failure=own_words(measured.failure) or "it failed")
            yield measured

    def _answers(
        self, requests: Mapping[int, _Request], what: str
    ) -> Generator[tuple[int, str, Answer | None]]:
        """Ask clients and yield client, token and answer; None at the deadline.

        If nobody was there at all, or the SuperLink was away, and nobody answered, the clients are
        asked again once enough are there, up to `ROUND_TRIES` times.
        """
        make_folder(self._arrivals)
        for tried in range(1, ROUND_TRIES + 1):
            state = _Exchange(what, time.monotonic() + self._limit, dict(requests))
            try:
                yield from self._exchange(state)
                answered = len(state.open) < len(requests)
                if answered or not state.away or tried == ROUND_TRIES or not requests:
                    for client in state.open:
                        yield client, state.tokens.get(client, ""), None
                    return
            finally:
                for token in state.tokens.values():
                    self._network.revoke(token)
            log.warning("%s: nobody answered in %.0f s; asking again", what, self._limit)
            self.clients()

    def _exchange(self, state: "_Exchange") -> Generator[tuple[int, str, Answer]]:
        """Ask the open requests, and yield answers as they come, until the time is over."""
        look = LOOK_SECONDS
        while state.open and time.monotonic() < state.until:
            came = 0
            try:
                self._send(state)
                for client, text in self._come(state):
                    answer = self._heard(client, text, state.open.pop(client).about)
                    came += 1
                    yield client, state.tokens[client], answer
            except LinkLostError as error:
                state.away = True
                self._network.lost(error)
                state.under_way.clear()
            look = LOOK_SECONDS if came else min(1.2 * look, LONGEST_LOOK_SECONDS)
            time.sleep(min(look, max(0.0, state.until - time.monotonic())))

    @property
    def _limit(self) -> float:
        return self._rules.deadline_seconds or LONG_SECONDS

    def _come(self, state: "_Exchange") -> Iterator[tuple[int, str]]:
        """Yield clients and their answers; whose ask came to nothing is asked again later."""
        for message, text in self._network.pull(state.under_way):
            client, _ = state.under_way.pop(message)
            if client not in state.open:
                continue
            if text is None:
                state.lose(client)
            else:
                yield client, text

    def _heard(self, client: int, text: str, about: About) -> Answer:
        """Return a device's answer, and believe the report in it."""
        answer = _answer(text, about)
        if answer.report is not None:
            key = self._roster.places[client][0]
            self._take_report(key, replace(answer, refusal=""))
        return answer

    def _send(self, state: "_Exchange") -> None:
        """Ask the clients that are there and that no ask is under way to."""
        now, clients = time.monotonic(), state.due(self._rules.ask_again_seconds)
        if not clients:
            return
        nodes = {member.key: node for node, member in self._network.present().items()}
        state.away |= not any(self._roster.places[client][0] in nodes for client in clients)
        texts: list[tuple[int, str]] = []
        asked: list[int] = []
        for client in clients:
            key, share = self._roster.places[client]
            if key not in nodes:
                continue
            request = state.open[client]
            if client not in state.tokens:
                name = f"{self._roster.run} {state.what} client {client}"
                parts = [self._task.tokenizer, *request.parts]
                inbox = self._inbox(client)
                state.tokens[client] = self._token(key, name, parts, request.upload_bytes, inbox)
            left = state.until - now if self._rules.deadline_seconds else 0.0
            ask = self._ask(request.about, state.tokens[client], left)
            report = self._reports.get(key)  # None in a round that a resumed run does again
            data = "" if report is None else report.data
            texts.append(
                (nodes[key], to_json(replace(ask, share=share, data=data, job=request.job)))
            )
            asked.append(client)
        if texts:
            messages = self._network.push(texts, max(1.0, state.until - now))
            state.under_way |= {name: (asked[place], now) for name, place in messages.items()}

    def _ask(self, about: About, token: str, seconds: float) -> Ask:
        return Ask(
            about=about,
            leff=metadata.version("leff"),
            federation=self._network.federation,
            run=self._roster.run,
            task=self._task,
            token=token,
            seconds=seconds,
            partial=self._rules.partial,
        )

    def _inbox(self, client: int) -> Path:
        """Return where a client's updates arrive: two clients may send the very same bytes."""
        return self._arrivals / str(client)

    def _token(
        self, device: str, job: str, parts: Sequence[Part], upload_bytes: int, spool: Path
    ) -> str:
        self._store.put(self._tokenizer)  # parts of earlier rounds are deleted
        return self._network.issue(
            Grant(
                device=device,
                job=job,
                parts={part.digest: part.size_bytes for part in parts},
                folder=self._store.folder,
                upload_bytes=upload_bytes,
                spool=spool,
                expires=time.time() + self._limit + GRACE_SECONDS,
            )
        )

    def close(self) -> None:
        """Say that the run is over."""
        for token in self._report_tokens.values():
            self._network.revoke(token)
        self._network.close()


def _answer(text: str, about: About) -> Answer:
    """Return an answer; one that cannot be read, or is to something else, is a refusal."""
    try:
        answer = from_json(Answer, text)
    except RunError:
        return Answer(about, refusal="its answer cannot be read")
    if answer.about != about and not answer.refusal:
        return Answer(about, refusal="it answers something else")
    return answer
