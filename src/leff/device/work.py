"""What a device does with what it is asked.  The same under our own process and under Flower's.

    worker = worker_of(home, settings, transfers, session)
    answer = worker.answer(text)            # JSON of an Ask in, JSON of an Answer out

A job is done once.  Its answer is kept until the next one of the same client, so a server that asks
again, after a kill on either side, gets the same bits.  What goes wrong here is answered in our own
words; of an exception only the type is told.
"""

import hashlib
import hmac
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch

from leff.client.deadline import Deadline
from leff.client.job_checks import JobLimits, job_fault
from leff.client.measure import examples_of, measure_or_fail
from leff.client.model import Fetch
from leff.client.residuals import Residuals
from leff.client.summed import Held
from leff.client.train import train_or_fail
from leff.client.upload import first_values
from leff.device.budget import Budget
from leff.device.cache import PartCache
from leff.device.data import DeviceData, read_data
from leff.device.exchange import Exchange, HttpsExchange
from leff.device.fetch import FULL, FullDiskError, Transfers
from leff.device.home import DeviceHome
from leff.device.settings import DeviceSettings
from leff.device.sums import KeptSum, Told
from leff.errors import (
    DataError,
    LeffError,
    NetworkError,
    RefusedError,
    RunError,
    SecureSumError,
)
from leff.files import file_digest, make_folder, write_atomically, write_json
from leff.models.hardware import check_step, pinned_threads, torch_device
from leff.privacy.noise import fresh_key
from leff.privacy.secure_client import ClientState
from leff.tasks.tokenizer_part import read_tokenizer
from leff.units import BYTES, parse_amount, parse_seconds
from leff.wire.asks import Answer, Ask, DeviceReport, ShareReport
from leff.wire.json import from_json, to_json
from leff.wire.messages import Job, MeasureJob, Part, TaskCard, Update
from leff.wire.own_words import own_words

log = logging.getLogger("leff.device")
UPLOAD_SHARE = 0.1  # of a deadline, that is left for the upload
KEPT_RUNS = 3  # of answers and residuals, the newest
KEPT_ROUNDS = 3  # of residuals: a server that was killed goes back by one or two


class Worker:
    """Answers asks; it keeps the data of the last task, and the last answers on disk."""

    def __init__(
        self,
        folder: Path,
        federation: str,
        settings: DeviceSettings,
        exchange: Exchange,
        device: torch.device,
        session: str,
        working: Callable[[str], None] = lambda what: None,
    ) -> None:
        """`folder` is for its answers and residuals, `federation` the one whose asks it takes.

        `session` is drawn when its process starts.  `working` hears what it does now.
        """
        limits = settings.limits
        self._outbox, self._residuals = folder / "outbox", folder / "residuals"
        self._federation, self._settings, self._exchange = federation, settings, exchange
        self._device, self._session, self._working = device, session, working
        self._limits = JobLimits(
            most_bytes=parse_amount(limits.download, BYTES),
            most_upload_bytes=parse_amount(limits.upload, BYTES),
            most_seconds=parse_seconds(limits.time),
            most_epochs=limits.epochs,
            sums_only=limits.least_cohort is not None,
        )
        self._least_cohort, self._told = limits.least_cohort or 2, folder / "sums.json"
        self._secret = _kept_secret(folder / "data.key")
        self._budget = Budget(folder / "privacy.json", limits.epsilon, limits.delta)
        self._data: tuple[TaskCard, DeviceData, str] | None = None
        self.refused = ""  # why the last ask was refused, for the device's owner
        make_folder(self._outbox)

    def answer(self, text: str, received: float | None = None) -> str:
        """Return the answer to an ask that was `received` at this time of `time.monotonic`."""
        received = time.monotonic() if received is None else received
        self.refused = ""
        try:
            ask = from_json(Ask, text)
        except RunError as error:
            version = metadata.version("leff")
            log.error("an ask cannot be read: %s", error)
            return to_json(Answer("report", refusal=f"leff {version} cannot read this ask"))
        try:
            return to_json(self._answer(ask, received))
        except Exception as error:
            log.error("an ask failed: %s", error, exc_info=not isinstance(error, LeffError))
            answer = to_json(self._refusal(ask, _reason(error)))
            self.refused = str(error) if isinstance(error, LeffError) else self.refused
            return answer

    def _refusal(self, ask: Ask, reason: str) -> Answer:
        log.error("refused to %s: %s", ask.about, reason)
        self.refused = reason
        return Answer(ask.about, refusal=own_words(reason))

    def _answer(self, ask: Ask, received: float) -> Answer:
        if ask.federation != self._federation:
            return self._refusal(ask, "this device has not joined this federation")
        if ask.leff != metadata.version("leff"):
            own = metadata.version("leff")
            return self._refusal(ask, f"the server has leff {ask.leff}, this device {own}")
        if not re.fullmatch("[0-9a-f]{32}", ask.run):  # it becomes a folder's name
            return self._refusal(ask, "it asks for something that no run has")
        until = received + (ask.seconds or self._limits.most_seconds)
        report = self._report(ask, until)
        if ask.about == "report":
            return Answer("report", report)
        if ask.data not in ("", report.data) or not 0 <= ask.share < len(report.shares):
            return Answer(ask.about, report, refusal="its data has changed since it reported")
        if ask.about == "measure":
            return self._measure(ask, report, until)
        if ask.about == "sum":
            return self._sum(ask, report, until)
        return self._train(ask, report, until)

    def _report(self, ask: Ask, until: float) -> DeviceReport:
        (data, digest), capacity = self._examples(ask, until), self._settings.capacity
        return DeviceReport(
            leff=metadata.version("leff"),
            session=self._session,
            data=digest,
            shares=tuple(ShareReport(len(c.train), len(c.validation)) for c in data.clients),
            layers=capacity.layers,
            memory_bytes=capacity.memory_bytes,
            device=capacity.device(self._settings.name),
        )

    def _examples(self, ask: Ask, until: float) -> tuple[DeviceData, str]:
        """Return this device's examples for the task and their digest, read once for each task."""
        if self._data is None or self._data[0] != ask.task:
            self._working("reading its data")
            fetch = self._fetch(ask, [ask.task.tokenizer], until)
            tokenizer = read_tokenizer(fetch(ask.task.tokenizer))
            data = read_data(self._settings.data.of_device(), ask.task, tokenizer)
            self._data = ask.task, data, _digest(data, self._secret)
        return self._data[1], self._data[2]

    def _fetch(self, ask: Ask, parts: Iterable[Part], until: float) -> Fetch:
        """Return how the parts of an ask are fetched."""
        self._exchange.keep(parts)

        def fetch(part: Part) -> Mapping[str, torch.Tensor]:
            return self._exchange.fetch(part, ask.token, until)

        return fetch

    def _train(self, ask: Ask, report: DeviceReport, until: float) -> Answer:
        job = from_json(Job, ask.job)
        for folder in (self._outbox, self._residuals):
            _forget_runs(folder, ask.run)
        kept = Kept(self._outbox / ask.run, job.client, ask.job)
        done = kept.read()
        if done is None:
            fault = job_fault(job, self._limits, ask.seconds) or self._budget.fault(job)
            if fault is not None:
                return self._refusal(ask, fault)
            self._budget.note(job)
            self._working(f"training in round {job.round + 1}")
            update = self._trained(ask, job, until)
            done = kept.write(update)
        update, payload = done
        if job.held:  # it leaves this device under masks only
            return Answer("train", report, update=to_json(replace(update, upload_bytes=0)))
        digest = self._uploaded(kept, payload, f"its update of round {job.round + 1}", ask, until)
        return Answer("train", report, update=to_json(update), digest=digest)

    def _uploaded(self, kept: "Kept", file: Path | None, what: str, ask: Ask, until: float) -> str:
        """Send a file, unless it was sent under the ask's token; return its digest, "" for none."""
        if file is None:
            return ""
        if not kept.was_sent(file, ask.token):
            self._working(f"sending {what}")
            self._exchange.upload(file, file.name, ask.token, until)
            kept.note_sent(file, ask.token)
        return file.name

    def _sum(self, ask: Ask, report: DeviceReport, until: float) -> Answer:
        """Do a phase of a secure sum with the update that is held."""
        job = from_json(Job, ask.job)
        kept = Kept(self._outbox / ask.run, job.client, ask.job)
        _, payload = kept.read() or (None, None)
        if not job.held or payload is None:
            raise SecureSumError(
                f"this device holds no update of client {job.client} in round {job.round}"
            )

        def held(state: ClientState | None) -> Held:
            fetch = self._fetch(ask, [ask.task.tokenizer, *job.parts], until)
            return Held(job, payload, lambda: first_values(job, fetch), self._least_cohort, state)

        text, values = KeptSum(kept.folder, Told(self._told)).answer(ask.phase, ask.sum, held)
        digest = self._uploaded(kept, values, "values under masks", ask, until)
        return Answer("sum", report, digest=digest, sum=text)

    def _trained(self, ask: Ask, job: Job, until: float) -> Update:
        check_step(job.training.step, self._device)
        fetch = self._fetch(ask, [ask.task.tokenizer, *job.parts], until)
        examples = self._examples(ask, until)[0].clients[ask.share].train
        residuals = Residuals(self._residuals / ask.run, KEPT_ROUNDS).of(job.client)
        left = until - time.monotonic()
        deadline = Deadline(time.monotonic() + (1 - UPLOAD_SHARE) * left, ask.partial)
        with pinned_threads(self._settings.threads):
            return train_or_fail(job, fetch, examples, self._device, residuals, deadline)

    def _measure(self, ask: Ask, report: DeviceReport, until: float) -> Answer:
        job = from_json(MeasureJob, ask.job)
        fault = job_fault(job, self._limits, ask.seconds) or self._budget.fault(job)
        if fault is not None:
            return self._refusal(ask, fault)
        self._working("measuring the model")
        fetch = self._fetch(ask, [ask.task.tokenizer, *job.parts], until)
        own = self._examples(ask, until)[0].clients[ask.share]
        examples = examples_of(job, own.train, own.validation)
        with pinned_threads(self._settings.threads):
            measured = measure_or_fail(job, fetch, examples, self._device, Deadline(until))
        return Answer("measure", report, measure=to_json(measured))


def worker_of(
    home: DeviceHome,
    settings: DeviceSettings,
    transfers: Transfers,
    session: str,
    working: Callable[[str], None] = lambda what: None,
    kind: type[Worker] = Worker,
) -> Worker:
    """Return the worker of a device on a network.  ConfigError for a device that torch has not."""
    cache = PartCache(home.path / "parts", parse_amount(settings.limits.cache, BYTES))
    return kind(
        home.path,
        home.joined().federation,
        settings,
        HttpsExchange(cache, transfers),
        torch_device(settings.device),
        session,
        working,
    )


def _reason(error: Exception) -> str:
    """Return what the server is told of an error, in words of `wire.own_words`."""
    full = isinstance(error, OSError) and error.errno in FULL
    if full or isinstance(error, FullDiskError):
        return "its disk is full"
    if isinstance(error, SecureSumError):
        return "it takes no part in the secure sum; its own log says why"
    if isinstance(error, DataError):
        return "its data does not fit the task; its own log says why"
    if isinstance(error, RefusedError):
        return "a transfer failed: the server refused it"
    if isinstance(error, NetworkError):
        return "a transfer failed: the server, or the network, was away"
    return str(error) if isinstance(error, LeffError) else f"it failed with {type(error).__name__}"


def _digest(data: DeviceData, secret: bytes) -> str:
    """Return a digest of all tokens and labels.

    Without the secret, who knows nearly all of the data could try what the rest is.
    """
    mac = hmac.new(secret, digestmod=hashlib.sha256)
    for client in data.clients:
        for example in (*client.train, *client.validation):
            mac.update(example.facts.encode())
            mac.update(example.input_ids.astype("<i4").tobytes())
        mac.update(b"\n")
    return mac.hexdigest()


def _kept_secret(path: Path) -> bytes:
    """Return this device's secret, which is made once."""
    if not path.exists():
        write_atomically(path, fresh_key(), secret=True)
    return path.read_bytes()


def _forget_runs(folder: Path, run: str) -> None:
    """Delete what was kept for runs long ago, if a run is new here; `KEPT_RUNS` stay."""
    if (folder / run).exists() or not folder.exists():
        return
    others = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in others[: max(0, len(others) - KEPT_RUNS + 1)]:
        shutil.rmtree(path, ignore_errors=True)


class Kept:
    """The answer to a client's last job, on disk, until its next job."""

    def __init__(self, folder: Path, client: int, job: str) -> None:
        """`folder` is of one run."""
        self.folder = folder / f"client-{client:d}"
        self._job = hashlib.sha256(job.encode()).hexdigest()

    def read(self) -> tuple[Update, Path | None] | None:
        """Return the update without its payload, and the payload's file; None if there is none."""
        try:
            values = json.loads((self.folder / "update.json").read_text())
            if values["job"] != self._job:
                return None
            payload = self.folder / values["digest"] if values["digest"] else None
            if payload is not None and file_digest(payload) != payload.name:
                return None
            return from_json(Update, values["update"]), payload
        except (OSError, ValueError, KeyError, TypeError, RunError):
            return None

    def write(self, update: Update) -> tuple[Update, Path | None]:
        """Keep an update in place of the one before."""
        make_folder(self.folder)
        for path in self.folder.iterdir():
            path.unlink()
        payload, digest = update.payload, ""
        assert isinstance(payload, bytes)
        if payload:
            digest = hashlib.sha256(payload).hexdigest()
            write_atomically(self.folder / digest, payload)
        bare = replace(update, payload=b"")
        values = {"job": self._job, "digest": digest, "update": to_json(bare)}
        write_json(self.folder / "update.json", values)
        return bare, self.folder / digest if digest else None

    def was_sent(self, file: Path, token: str) -> bool:
        """Return whether a file was sent under this token: the same ask may come twice."""
        with suppress(OSError):
            return (self.folder / "sent").read_text() == f"{file.name} {token}"
        return False

    def note_sent(self, file: Path, token: str) -> None:
        """Note that a file was sent under a token; on a full disk it is sent again."""
        with suppress(OSError):
            write_atomically(self.folder / "sent", f"{file.name} {token}".encode())
