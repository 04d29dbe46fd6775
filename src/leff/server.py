"""The server's knowledge of its clients, and the door for all that they send.

    server = Server(store, Spool(folder), limits)
    reports, unfit = server.believed(asked, fleet.report(asked), layers=12)
    left = server.open(model, jobs, reports)       # these jobs go out
    update = server.receive(update)                # checked, on disk, perhaps refused
    jobs, updates, dropped = server.close()        # in the order of client ids, without payloads

The server records which client holds which parts, whose memory ran out, and which labels it said
that it has, for every engine.  An update is on the disk before it counts.  A round that is done
again, since the run was killed in it, goes on with the updates that it had (`wire.spool`).

A message that belongs to nobody in the round is dropped and counted: a report of a client that was
not asked, an update of a client without a job or for another round.  Of a client's updates the
first that can be merged counts; while there is none, the first counts.  Others are dropped.
"""

import logging
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from leff.capacity.job_cost import job_steps
from leff.capacity.schedule import Limits, with_peak
from leff.capacity.setbacks import Setbacks
from leff.client.model import tuned_values
from leff.methods.checks import expected_shapes
from leff.methods.guard import NO_GUARD, Guard, clipped
from leff.models import layer_prefix, trainable_names
from leff.wire.checks import (
    Expected,
    ExpectedMeasure,
    checked,
    checked_measure,
    refused,
    report_fault,
)
from leff.wire.codec import rebuild
from leff.wire.holdings import Holdings
from leff.wire.json import job_digest
from leff.wire.messages import Capacity, Job, Measure, MeasureJob, Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool

log = logging.getLogger("leff.server")


class Server:
    """The server without the method; `limits` is None if jobs have no limits."""

    def __init__(
        self,
        store: PartStore,
        spool: Spool,
        limits: Limits | None = None,
        guard: Guard = NO_GUARD,
        counted: bool = False,
    ) -> None:
        """With `counted`, clients are on a network, which counts the bytes that they fetch.

        What fails there may do better the next time, so a round that is done again asks anew.
        """
        self.counted = counted
        self.store, self.spool, self.limits, self.guard = store, spool, limits, guard
        self.holdings, self._setbacks = Holdings(), Setbacks()
        self.labels: dict[int, tuple[float, ...]] = {}  # shares, as clients said last
        self._model: nn.Module | None = None  # as the round's jobs were made from it
        self._jobs: dict[int, Job] = {}
        self._reports: dict[int, Capacity] = {}
        self._expected: dict[int, Expected] = {}
        self._downloads: dict[int, int] = {}
        self._dropped = 0

    def believed(
        self, asked: Collection[int], reports: Iterable[Capacity], layers: int
    ) -> tuple[list[Capacity], dict[int, str]]:
        """Return the reports that can be used, in the order of ids, and why others cannot be.

        `layers` is the model's number of layers.  A report is lowered where the client's memory ran
        out before.  Of a client's reports the first that can be used counts.
        """
        usable: dict[int, Capacity] = {}
        unfit: dict[int, str] = {}
        for report in reports:
            client = report.client
            if type(client) is not int or client not in asked or client in usable:
                self._dropped += 1
                continue
            fault = report_fault(report, layers)
            if fault is None:
                known = self.labels.get(client, ())
                usable[client] = replace(self._setbacks.applied(report), labels=known)
            else:
                unfit.setdefault(client, fault)
        unfit = {client: fault for client, fault in unfit.items() if client not in usable}
        return [usable[client] for client in sorted(usable)], unfit

    def open(self, model: nn.Module, jobs: Sequence[Job], reports: Sequence[Capacity]) -> list[Job]:
        """Start a round: note the jobs and what each update has to be.

        Return the jobs that are left to do.  These are all, unless this very round was begun before
        and the updates of some jobs are in the spool.
        """
        self._model = model
        self._jobs = {job.client: job for job in jobs}
        self._reports = {report.client: report for report in reports}
        self._expected = {
            job.client: _expected(model, job, self._reports[job.client].examples) for job in jobs
        }
        self._downloads = {job.client: self.holdings.send(job) for job in jobs}
        digests = {job.client: job_digest(job) for job in jobs}
        self.spool.open(digests, failures=not self.counted)
        if any(job.held for job in jobs):  # they are asked whether they still hold them
            self.spool.updates.clear()
        return [job for job in jobs if job.client not in self.spool.updates]

    def expected(self, client: int) -> Collection[str]:
        """Return the names of the tensors that a client of the round trains."""
        return self._expected[client].shapes.keys()

    @property
    def good(self) -> int:
        """How many of the round's updates can be merged so far."""
        return sum(update.failure is None for update in self.spool.updates.values())

    def receive(self, update: Update) -> Update | None:
        """Keep an update, checked or refused, and return it; return None for one that is dropped.

        An update that is kept has its download bytes, and its payload is in the spool only.  If it
        can be merged, it also has the norm of its difference, and the guard has clipped it.  A file
        with the payload is the server's from now on: it is moved there, or deleted.
        """
        kept = self._kept(update)
        if isinstance(update.payload, Path):
            with suppress(OSError, ValueError):  # it was moved, or never was a file
                update.payload.unlink()
        return kept

    def _kept(self, update: Update) -> Update | None:
        expected = self._expected.get(update.client) if type(update.client) is int else None
        if expected is None or type(update.round) is not int or update.round != expected.round:
            self._dropped += 1
            return None
        first = self.spool.updates.get(expected.client)
        if first is not None and first.failure is None:
            self._dropped += 1
            return None
        update = self._rebuilt(checked(update, expected), expected)
        if first is not None and update.failure is not None:
            self._dropped += 1
            return None
        downloaded = self._downloads[expected.client]
        if self.counted:
            downloaded = update.download_bytes
        update = replace(
            update,
            download_bytes=downloaded,
            norm=None,
            norms=(),
            clipped=False,
            asked_steps=expected.steps,
        )
        if update.failure is None and not expected.held:
            path, start = self.spool.folder / "clipped", self._start(expected.client)
            assert self._model is not None, "open() comes first"
            prefixes = [layer_prefix(self._model, layer) for layer in update.layers]
            update = clipped(update, start, self.guard.clip_norm, path, prefixes)
        if update.out_of_memory_bytes:
            predicted = f"{self._predicted(update.client).predicted_bytes:,} bytes were predicted"
            update = replace(update, failure=f"{update.failure}; {predicted}")
        self.spool.add(update)
        return self.spool.updates[expected.client]

    def _rebuilt(self, update: Update, expected: Expected) -> Update:
        """Return an update with whole fp32 tensors, if it came as a difference."""
        if update.failure is not None or expected.upload == "full" or expected.held:
            return update
        path = self.spool.folder / "rebuilt"
        start = self._start(expected.client)
        fault = rebuild(update.payload, expected.shapes, expected.upload, start, path)
        if fault is None:
            return replace(update, payload=path)
        path.unlink()
        return refused(update, fault)

    def _start(self, client: int) -> dict[str, torch.Tensor]:
        """Return the values with which a client's trained tensors started the round."""
        job, model = self._jobs[client], self._model
        assert model is not None, "open() comes first"
        if job.tuned is not None:
            return tuned_values(job.tuned, self.store.get)
        parameters = dict(model.named_parameters())
        return {name: parameters[name] for name in trainable_names(model, job.block)}

    def measured(
        self,
        jobs: Sequence[MeasureJob],
        expected: Mapping[int, ExpectedMeasure],
        answers: Generator[Measure],
    ) -> list[Measure]:
        """Return each client's measurement, checked, in the order of ids; the first one counts.

        `answers` are what the fleet yields for the jobs.  A message that belongs to no job is
        left out.  A client that does not answer has a failure.
        """
        sent = {job.client: self.holdings.send(job) for job in jobs}
        found: dict[int, Measure] = {}
        with closing(answers):
            for answer in answers:
                client = answer.client
                if type(client) is not int or client not in sent or client in found:
                    continue
                if type(answer.round) is int and answer.round == expected[client].round:
                    downloaded = answer.download_bytes if self.counted else sent[client]
                    measure = checked_measure(answer, expected[client])
                    found[client] = replace(measure, download_bytes=downloaded)
        for client in sent.keys() - found.keys():
            own, bytes_sent = expected[client], 0 if self.counted else sent[client]
            silent = Measure(own.round, client, own.examples, failure="it did not answer")
            found[client] = replace(silent, download_bytes=bytes_sent)
        failed = [each for each in found.values() if each.failure is not None]
        if failed:
            log.warning("%d clients measured nothing (%s)", len(failed), failed[0].failure)
        return [found[client] for client in sorted(found)]

    def close(self) -> tuple[dict[int, Job], list[Update], int]:
        """End the round: return its jobs by client, its updates, and how much was dropped.

        The parts of earlier rounds are deleted, and clients whose memory ran out get less from now
        on.
        """
        updates = [update for _, update in sorted(self.spool.updates.items())]
        for update in updates:
            if update.out_of_memory_bytes:
                job = self._predicted(update.client)
                self._setbacks.lower(job, self._reports[update.client])
        if self._jobs:  # else the method still needs what it stored before
            self.store.keep({part.digest for job in self._jobs.values() for part in job.parts})
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("dropped %d messages that belong to no client of the round", dropped)
        return self._jobs, updates, dropped

    def _predicted(self, client: int) -> Job:
        """Return the job of a client whose memory ran out, with its predicted peak."""
        if self.limits is not None:
            self._jobs[client] = with_peak(self._jobs[client], self.limits)
        return self._jobs[client]

    def state(self) -> dict[str, Any]:
        """Return what is known of the clients as JSON values, for a resumed run."""
        return {
            "holdings": self.holdings.state(),
            "setbacks": self._setbacks.state(),
            "labels": {str(client): list(shares) for client, shares in self.labels.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.holdings.load_state(state["holdings"])
        self._setbacks.load_state(state["setbacks"])
        self.labels = {int(client): tuple(own) for client, own in state["labels"].items()}


def _expected(model: nn.Module, job: Job, examples: int) -> Expected:
    return Expected(
        round=job.round,
        client=job.client,
        layers=job.block,
        scored=job.block if job.tuned is None and not job.private else (),
        examples=examples,
        steps=job_steps(job, examples),
        shapes=expected_shapes(model, job),
        upload=job.upload,
        private=job.private,
        held=job.held,
    )
