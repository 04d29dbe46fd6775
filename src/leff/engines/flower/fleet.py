"""The fleet of a server on the network: asks the devices that are there, and waits for answers.

    fleet = FlowerFleet(folder, settings, roster, task, store, arrivals, rules, upload_bytes)
    fleet.clients()                          # waits until enough are there
    for update in fleet.train(jobs): ...     # as they arrive, until the deadline

Asks and answers are small texts that go through the SuperLink.  Tensors go through the gateway: an
ask has a token, with which the device fetches its job's parts and sends its update.  An update is
on this machine's disk before the device answers.

A round ends when all have answered, when enough have, or at its deadline.  Who has not answered has
failed, and what comes later is refused, as its token is.  A device whose answer got lost is asked
again.  It does a job once, so that changes nothing.
"""

import json
import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from leff.engines.flower.own_words import own_words
from leff.engines.flower.roster import Place, Roster
from leff.errors import RunError
from leff.files import make_folder, write_atomically
from leff.network.folder import ServerFolder, ServerSettings
from leff.network.grants import Grant, Grants
from leff.network.registry import AdmittedDevice, Registry
from leff.network.superlink import Link, LinkLostError
from leff.wire.asks import About, Answer, Ask, DeviceReport
from leff.wire.json import from_json, to_json
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, Part, TaskCard, Update
from leff.wire.parts import PartStore

log = logging.getLogger("leff.network")
LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.05, 0.5  # between looks for answers
REPORT_SECONDS = 120.0  # that a device has to read its data, once the quorum is there
ASK_AGAIN_SECONDS = 120.0  # without an answer, in case that the ask got lost with a process
GRACE_SECONDS = 600.0  # that a token outlives its round
LONG_SECONDS = 7 * 86_400.0  # of an ask without a deadline


@dataclass(frozen=True)
class FleetRules:
    """When a round starts and ends.

    `quorum` clients must be there, for which `wait_seconds` are spent.  A round ends after
    `deadline_seconds` (0: when all have answered).  `spare` is the share of clients that were asked
    beyond those that are needed.  With `partial`, a device sends what it has by the deadline.
    `layers` is what each client trains, repeated over the clients; () if each says so itself.
    """

    quorum: int = 1
    wait_seconds: float = 600.0
    deadline_seconds: float = 1800.0
    spare: float = 0.0
    partial: bool = True
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """An ask that is under way to a client."""

    client: int
    token: str
    text: str
    since: float


class FlowerFleet:
    """Clients by number (`Roster`); each is a file on an admitted device."""

    def __init__(
        self,
        folder: ServerFolder,
        settings: ServerSettings,
        roster: Roster,
        task: TaskCard,
        store: PartStore,
        arrivals: Path,
        rules: FleetRules,
        model_layers: int,
        upload_bytes: Callable[[Job], int],
    ) -> None:
        self._folder, self._settings, self._roster = folder, settings, roster
        self._task, self._store, self._arrivals = task, store, arrivals
        self._rules, self._model_layers, self._upload_bytes = rules, model_layers, upload_bytes
        self._grants = Grants(folder.grants, folder.token_secret.read_bytes())
        self._reports: dict[str, DeviceReport] = {}  # by fingerprint
        self._refused: dict[str, str] = {}
        self._sessions: dict[str, list[str]] = {}
        self._link: Link | None = None
        self.steady = False  # others may be there in a repeated round
        make_folder(arrivals)

    # Who is there

    def clients(self) -> Sequence[int]:
        """Return the clients that are there and have reported, once the quorum is met.

        Raises RunError if it is not met in time.
        """
        started, quorum = time.monotonic(), self._rules.quorum
        said = False
        while True:
            present = self._present()
            self._ask_reports(present)
            here = self._clients_of(present)
            if len(here) >= quorum:
                return here
            waited = time.monotonic() - started
            if waited > self._rules.wait_seconds:
                raise RunError(self._too_few(present, here))
            if not said:
                log.warning("waiting for devices: %s", self._too_few(present, here))
                said = True
            time.sleep(LONGEST_LOOK_SECONDS)

    def _too_few(self, present: Mapping[int, AdmittedDevice], here: Sequence[int]) -> str:
        refused = "".join(f"; device {key} refuses: {why}" for key, why in self._refused.items())
        return (
            f"{len(here)} clients are there, and engine.quorum = {self._rules.quorum} are needed "
            f"({len(present)} devices are connected){refused}; see leff server status"
        )

    def _present(self) -> dict[int, AdmittedDevice]:
        """Return the admitted devices that are there, by node id."""
        admitted = {
            d.fingerprint: d for d in Registry(self._folder.path / "devices.json").devices()
        }
        nodes: dict[str, int] = {}
        with suppress(OSError, ValueError, KeyError):
            nodes = json.loads((self._folder.path / "nodes.json").read_text())["nodes"]
        try:
            online = self._open_link().nodes()
        except LinkLostError as error:
            self._lose_link(error)
            return {}
        return {
            node: admitted[key] for key, node in nodes.items() if node in online and key in admitted
        }

    def _clients_of(self, present: Mapping[int, AdmittedDevice]) -> list[int]:
        """Return the clients of devices that have reported; new ones are numbered."""
        devices = sorted(present.values(), key=lambda device: device.number)
        places: list[Place] = [
            (device.fingerprint, share)
            for device in devices
            if device.fingerprint in self._reports
            for share, own in enumerate(self._reports[device.fingerprint].shares)
            if own.examples > 0
        ]
        self._roster.enter(places)
        return sorted(self._roster.id_of(place) for place in places)

    def _ask_reports(self, present: Mapping[int, AdmittedDevice]) -> None:
        """Ask the devices that have not reported yet, and wait for their answers for a while."""
        new = {
            node: device
            for node, device in present.items()
            if device.fingerprint not in self._reports
        }
        if not new:
            return
        token = self._token("report", "report", [self._task.tokenizer], 0)
        text = to_json(self._ask("report", token, REPORT_SECONDS))
        until = time.monotonic() + REPORT_SECONDS
        try:
            nodes = list(new)
            asked = self._open_link().push([(node, text) for node in nodes], REPORT_SECONDS)
            while asked and time.monotonic() < until:
                for message, answer in self._open_link().pull(asked):
                    device = new[nodes[asked.pop(message)]]
                    if answer is not None:
                        self._take_report(device.fingerprint, _answer(answer, "report"))
                time.sleep(LOOK_SECONDS)
        except LinkLostError as error:
            self._lose_link(error)
        finally:
            self._grants.revoke(token)

    def _take_report(self, key: str, answer: Answer) -> None:
        """Believe a device's report, or note why it takes no part."""
        report = answer.report
        if report is None or answer.refusal:
            why = own_words(answer.refusal) or "it sends no report"
            if self._refused.get(key) != why:
                log.warning("device %s takes no part: %s", key, why)
            self._refused[key] = why
            self._reports.pop(key, None)
            return
        sessions = self._sessions.setdefault(key, [])
        if report.session in sessions[:-1]:
            self._refused[key] = "two processes use this key; each device needs a key of its own"
            self._reports.pop(key, None)
            log.error("device %s: %s", key, self._refused[key])
            return
        if not sessions or sessions[-1] != report.session:
            sessions.append(report.session)
        self._refused.pop(key, None)
        self._reports[key] = report
        with suppress(OSError):
            make_folder(self._folder.path / "reports")
            seen = {"seen": time.time(), "report": json.loads(to_json(report))}
            path = self._folder.path / "reports" / f"{key}.json"
            write_atomically(path, json.dumps(seen).encode())

    def report(self, clients: Sequence[int]) -> list[Capacity]:
        """Return what the clients' devices reported; the server checks it."""
        return [self._capacity(client) for client in clients if self._report_of(client)]

    def _report_of(self, client: int) -> DeviceReport | None:
        return self._reports.get(self._roster.places[client][0])

    def _capacity(self, client: int) -> Capacity:
        key, share = self._roster.places[client]
        report, given = self._reports[key], self._rules.layers
        own = self._model_layers if report.layers is None else report.layers
        layers = min(own, given[client % len(given)]) if given else own
        return Capacity(
            client=client,
            layers=min(layers, self._model_layers),
            examples=report.shares[share].examples,
            memory_bytes=report.memory_bytes,
            device=report.device,
        )

    def validation_examples(self, client: int) -> int:
        """Return how many examples a client can measure a model on."""
        report = self._report_of(client)
        return 0 if report is None else report.shares[self._roster.places[client][1]].validation

    # Work

    def train(self, jobs: Sequence[Job]) -> Generator[Update]:
        """Yield updates as they arrive, and a failure for each client that does not answer."""
        enough = max(1, round(len(jobs) / (1 + self._rules.spare)))
        by_client = {job.client: job for job in jobs}
        asks = {
            job.client: ("train", to_json(job), job.parts, self._upload_bytes(job)) for job in jobs
        }
        good = 0
        for client, token, answer in self._answers(asks, f"round {jobs[0].round if jobs else 0}"):
            job = by_client[client]
            update = self._update(job, answer)
            traffic = self._grants.traffic(token)
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
        capacity = self._capacity(job.client)
        failed = Update(job.round, job.client, job.block, capacity.examples)
        if answer is None:
            return replace(failed, failure="no answer by the deadline")
        if answer.refusal or not answer.update:
            return replace(failed, failure=own_words(answer.refusal) or "it sends no update")
        try:
            update = from_json(Update, answer.update)
        except RunError:
            return replace(failed, failure="its update cannot be read")
        if update.failure is not None:
            return replace(update, failure=own_words(update.failure) or "it failed")
        payload = self._arrivals / answer.digest
        if len(answer.digest) != 64 or not answer.digest.isalnum() or not payload.is_file():
            return replace(failed, failure="its update did not arrive")
        return replace(update, payload=payload)

    def measure(self, jobs: Sequence[MeasureJob]) -> Generator[Measure]:
        """Yield what clients measured as it arrives, and a failure for those that do not answer."""
        asks = {job.client: ("measure", to_json(job), job.parts, 0) for job in jobs}
        by_client = {job.client: job for job in jobs}
        for client, _, answer in self._answers(asks, "measure"):
            job = by_client[client]
            failed = Measure(job.round, client, self.validation_examples(client))
            if answer is None or answer.refusal or not answer.measure:
                why = "no answer by the deadline" if answer is None else own_words(answer.refusal)
                yield replace(failed, failure=why or "it sends no measure")
                continue
            try:
                yield from_json(Measure, answer.measure)
            except RunError:
                yield replace(failed, failure="its measure cannot be read")

    def _answers(
        self, asks: Mapping[int, tuple[About, str, Sequence[Part], int]], what: str
    ) -> Generator[tuple[int, str, Answer | None]]:
        """Send asks by client and yield client, token and answer; None at the deadline."""
        limit = self._rules.deadline_seconds
        until = time.monotonic() + (limit or LONG_SECONDS)
        open_ = dict(asks)
        tokens: dict[int, str] = {}
        under_way: dict[str, _Asked] = {}
        look = LOOK_SECONDS
        try:
            while open_ and time.monotonic() < until:
                came = 0
                try:
                    self._send(open_, tokens, under_way, until, what)
                    for message, text in self._open_link().pull(under_way):
                        asked = under_way.pop(message)
                        if text is None or asked.client not in open_:
                            continue
                        answer = self._heard(asked.client, text, open_[asked.client][0])
                        came += 1
                        del open_[asked.client]
                        yield asked.client, asked.token, answer
                except LinkLostError as error:
                    self._lose_link(error)
                    under_way.clear()
                look = LOOK_SECONDS if came else min(1.2 * look, LONGEST_LOOK_SECONDS)
                time.sleep(min(look, max(0.0, until - time.monotonic())))
            for client in open_:
                yield client, tokens.get(client, ""), None
        finally:
            for token in tokens.values():
                self._grants.revoke(token)

    def _heard(self, client: int, text: str, about: About) -> Answer:
        """Return a device's answer, and believe the report in it."""
        answer = _answer(text, about)
        if answer.report is not None:
            key = self._roster.places[client][0]
            self._take_report(key, replace(answer, refusal=""))
        return answer

    def _send(
        self,
        open_: Mapping[int, tuple[About, str, Sequence[Part], int]],
        tokens: dict[int, str],
        under_way: dict[str, _Asked],
        until: float,
        what: str,
    ) -> None:
        """Ask the clients that are there and that no ask is under way to."""
        now = time.monotonic()
        waiting = {a.client for a in under_way.values() if now - a.since < ASK_AGAIN_SECONDS}
        missing = [client for client in open_ if client not in waiting]
        if not missing:
            return
        nodes = {device.fingerprint: node for node, device in self._present().items()}
        texts: list[tuple[int, str]] = []
        asked: list[_Asked] = []
        for client in missing:
            key, share = self._roster.places[client]
            report = self._reports.get(key)
            if key not in nodes or report is None:
                continue
            about, job, parts, upload = open_[client]
            if client not in tokens:
                name = f"{self._roster.run} {what} client {client}"
                tokens[client] = self._token(key, name, [self._task.tokenizer, *parts], upload)
            left = until - now if self._rules.deadline_seconds else 0.0
            ask = self._ask(about, tokens[client], left)
            text = to_json(replace(ask, share=share, data=report.data, job=job))
            texts.append((nodes[key], text))
            asked.append(_Asked(client, tokens[client], text, now))
        if texts:
            messages = self._open_link().push(texts, max(1.0, until - now))
            under_way |= {message: asked[place] for message, place in messages.items()}

    def _ask(self, about: About, token: str, seconds: float) -> Ask:
        return Ask(
            about=about,
            leff=metadata.version("leff"),
            federation=self._settings.federation,
            run=self._roster.run,
            task=self._task,
            token=token,
            seconds=seconds,
            partial=self._rules.partial,
        )

    def _token(self, device: str, job: str, parts: Sequence[Part], upload_bytes: int) -> str:
        seconds = self._rules.deadline_seconds or LONG_SECONDS
        return self._grants.issue(
            Grant(
                device=device,
                job=job,
                parts={part.digest: part.size_bytes for part in parts},
                folder=self._store.folder,
                upload_bytes=upload_bytes,
                spool=self._arrivals,
                expires=time.time() + seconds + GRACE_SECONDS,
            )
        )

    # The link to the SuperLink

    def _open_link(self) -> Link:
        if self._link is None:
            state = self._folder.running()
            if state is None:
                raise RunError(
                    f"the server of {self._folder.path} is not running; start it with "
                    f"`leff server start {self._folder.path}`, then `leff resume` goes on"
                )
            self._link = Link(
                f"127.0.0.1:{self._settings.link_port}",
                self._folder.ca.read_bytes(),
                self._folder.link_secret.read_bytes(),
                lambda: self._folder.lock("link"),
            )
        return self._link

    def _lose_link(self, error: LinkLostError) -> None:
        log.warning("%s; trying again", error)
        if self._link is not None:
            self._link.close(completed=False)
            self._link = None
        time.sleep(1.0)

    def close(self) -> None:
        """Tell the SuperLink that the run is over."""
        if self._link is not None:
            self._link.close()
            self._link = None


def _answer(text: str, about: About) -> Answer:
    """Return an answer; one that cannot be read, or is to something else, is a refusal."""
    try:
        answer = from_json(Answer, text)
    except RunError:
        return Answer(about, refusal="its answer cannot be read")
    if answer.about != about and not answer.refusal:
        return Answer(about, refusal="it answers something else")
    return answer
