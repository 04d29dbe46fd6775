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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leff.engines.flower.asker import Asker, read_answer
from leff.engines.flower.exchange import Exchange, Request
from leff.engines.flower.reports import Reports
from leff.engines.flower.roster import Place, Roster
from leff.engines.flower.seam import Member, Network
from leff.engines.flower.sums import SumAsks, arrived
from leff.errors import RunError
from leff.files import make_folder
from leff.network.grants import Traffic
from leff.network.superlink import LinkLostError
from leff.privacy.secure_messages import SumAnswer, SumAsk
from leff.wire.asks import About, Answer, DeviceReport
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, TaskCard, Update
from leff.wire.own_words import own_words
from leff.wire.parts import PartStore

log = logging.getLogger("leff.network")
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 0.5  # between looks for answers
REPORT_LOOK_SECONDS = 0.1
QUIET_SECONDS = 5.0  # in which devices usually report, before it is said that some are missing
ROUND_TRIES = 3
LONG_SECONDS = 7 * 86_400.0  # of an ask without a deadline


@dataclass(frozen=True)
class FleetRules:
    """When a round starts and ends.

    `quorum` clients must be there, for which `wait_seconds` are spent.  A round ends after
    `deadline_seconds` (0: when all have answered).  With `partial`, a device sends what it has by
    the deadline.
    A device may be `most_clients` clients at most.  `layers` is what each client trains, repeated
    over the clients; () if each says so itself.
    `capacities` is what each client can do, if the server knows it, as in a simulation.  A client
    that does not answer is asked again, if an ask may get lost (`ask_again`).
    """

    quorum: int = 1
    wait_seconds: float = 600.0
    deadline_seconds: float = 1800.0
    partial: bool = True
    most_clients: int = 1
    layers: tuple[int, ...] = ()
    capacities: tuple[Capacity, ...] = ()
    ask_again: bool = True


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
        self._network, self._roster = network, roster
        self._store, self._arrivals, self._rules = store, arrivals, rules
        self._model_layers, self._upload_bytes = model_layers, upload_bytes
        self._limit = rules.deadline_seconds or LONG_SECONDS
        self._asker = Asker(network, roster.run, task, tokenizer, store, self._limit, rules.partial)
        self._sums = SumAsks({}, upload_bytes)
        self._reports = Reports(self._asker, arrivals, rules.most_clients)
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
            self._reports.ask(present)
            here = self._reports.places(present)
            if len(here) >= quorum and not self._reports.reading(present):
                self._enter(here)  # in the order of admission, whoever came first
                return sorted(map(self._roster.id_of, here))
            waited = time.monotonic() - started
            if waited > self._rules.wait_seconds and len(here) < quorum:
                raise RunError(self._too_few(present, here))
            if not said and len(here) < quorum and waited > QUIET_SECONDS:
                log.warning("waiting for devices: %s", self._too_few(present, here))
                said = True
            time.sleep(REPORT_LOOK_SECONDS)

    def _enter(self, here: Sequence[Place]) -> None:
        """Number the clients that are new, and say which device each is."""
        numbers: dict[str, list[str]] = {}
        for client, (key, _) in self._roster.enter(here).items():
            numbers.setdefault(key, []).append(str(client))
        if not self._rules.capacities:  # in a simulation devices have no names
            for key, clients in numbers.items():
                log.info("client %s is %s", ", ".join(clients), self._reports.name_of(key))

    def _too_few(self, present: Mapping[int, Member], here: Sequence[Place]) -> str:
        reasons = self._reports.refused.items()
        refused = "".join(f"; {self._reports.name_of(key)} refuses: {why}" for key, why in reasons)
        return (
            f"{len(here)} clients are there, and engine.quorum = {self._rules.quorum} are needed "
            f"({len(present)} devices are connected){refused}; see leff server status"
        )

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        """Return what the clients' devices reported; the server checks it."""
        reports = ((client, self._reports.of(self._roster.places[client][0])) for client in clients)
        return [self._capacity(client, report) for client, report in reports if report is not None]

    def _capacity(self, client: int, report: DeviceReport) -> Capacity:
        (_, share), given = self._roster.places[client], self._rules.layers
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
        by_client = {job.client: job for job in jobs}
        self._sums = SumAsks(by_client, self._upload_bytes)
        asks = {
            job.client: Request(
                "train", to_json(job), job.parts, 0 if job.held else self._upload_bytes(job)
            )
            for job in jobs
        }
        for client, token, answer in self._answers(asks, f"round {jobs[0].round}"):
            job = by_client[client]
            update = self._update(job, answer)
            traffic = self._network.traffic(token) if token else Traffic()
            yield replace(
                update,
                download_bytes=traffic.download_bytes,
                upload_bytes=traffic.upload_bytes,
            )

    def _update(self, job: Job, answer: Answer | None) -> Update:
        """Return what an answer says, with the payload as a file; the server checks it."""
        failed = Update(job.round, job.client, job.block, examples=0)
        if answer is None or answer.refusal or not answer.update:
            return replace(failed, failure=_silence(answer) or "it sends no update")
        try:
            update = from_json(Update, answer.update)
        except RunError:
            return replace(failed, failure="its update cannot be read")
        if (update.round, update.client) != (job.round, job.client):
            return replace(failed, failure="its update is of another round or client")
        if update.failure is not None:
            return replace(update, failure=own_words(update.failure) or "it failed")
        if job.held:
            return update
        payload = arrived(self._inbox(job.client), answer.digest)
        if payload is None:
            return replace(failed, failure="its update did not arrive")
        return replace(update, payload=payload)

    def sum(self, asks: Mapping[int, SumAsk]) -> Generator[SumAnswer]:
        """Yield the answers to a phase of a sum; who refuses, or does not answer, has left it."""
        for client, _, answer in self._answers(self._sums.requests(asks), "secure sum"):
            message = self._sums.read(client, answer, self._inbox(client))
            if message is not None:
                yield message

    def measure(self, jobs: Sequence[MeasureJob]) -> Generator[Measure]:
        """Yield what clients measured as it arrives, and a failure for those that do not answer."""
        asks = {job.client: Request("measure", to_json(job), job.parts) for job in jobs}
        by_client = {job.client: job for job in jobs}
        for client, token, answer in self._answers(asks, "measure"):
            traffic = self._network.traffic(token) if token else Traffic()
            measured = self._measured(by_client[client], answer)
            yield replace(measured, download_bytes=traffic.download_bytes)

    def _measured(self, job: MeasureJob, answer: Answer | None) -> Measure:
        """Return what an answer says; the server checks it."""
        failed = Measure(job.round, job.client, 0)
        if answer is None or answer.refusal or not answer.measure:
            return replace(failed, failure=_silence(answer) or "it sends no measure")
        try:
            measured = from_json(Measure, answer.measure)
        except RunError:
            return replace(failed, failure="its measure cannot be read")
        if measured.failure is not None:
            return replace(failed, failure=own_words(measured.failure) or "it failed")
        return measured

    def _answers(
        self, requests: Mapping[int, Request], what: str
    ) -> Generator[tuple[int, str, Answer | None]]:
        """Ask clients and yield client, token and answer; None at the deadline.

        If nobody was there at all, or the SuperLink was away, and nobody answered, the clients are
        asked again once enough are there, up to `ROUND_TRIES` times.
        """
        make_folder(self._arrivals)
        for tried in range(1, ROUND_TRIES + 1):
            state = Exchange(what, time.monotonic() + self._limit, dict(requests))
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

    def _exchange(self, state: Exchange) -> Generator[tuple[int, str, Answer]]:
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
                self._reports.forget_asks()
                state.under_way.clear()
            look = LOOK_SECONDS if came else min(1.2 * look, LONGEST_LOOK_SECONDS)
            time.sleep(min(look, max(0.0, state.until - time.monotonic())))

    def _come(self, state: Exchange) -> Iterator[tuple[int, str]]:
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
        answer = read_answer(text, about)
        if answer.report is not None:
            key = self._roster.places[client][0]
            self._reports.take(key, replace(answer, refusal=""))
        return answer

    def _send(self, state: Exchange) -> None:
        """Ask the clients that are there and that no ask is under way to."""
        now, clients = time.monotonic(), state.due(self._rules.ask_again)
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
                state.tokens[client] = self._asker.grant(
                    key,
                    f"{state.what} client {client}",
                    request.parts,
                    request.upload_bytes,
                    self._inbox(client),
                )
            left = state.until - now if self._rules.deadline_seconds else 0.0
            ask = self._asker.ask(request.about, state.tokens[client], left)
            report = self._reports.of(key)  # None in a round that a resumed run does again
            data = "" if report is None else report.data
            own = replace(ask, share=share, data=data, job=request.job)
            own = replace(own, phase=request.phase, sum=request.sum)
            texts.append((nodes[key], to_json(own)))
            asked.append(client)
        if texts:
            messages = self._network.push(texts, max(1.0, state.until - now))
            state.under_way |= {name: (asked[place], now) for name, place in messages.items()}

    def _inbox(self, client: int) -> Path:
        """Return where a client's updates arrive: two clients may send the very same bytes."""
        return self._arrivals / str(client)

    def close(self) -> None:
        """Say that the run is over."""
        self._reports.close()
        self._network.close()


def _silence(answer: Answer | None) -> str:
    """Return why a device did not do what it was asked, in our own words; "" if it did not say."""
    return "no answer by the deadline" if answer is None else own_words(answer.refusal)
