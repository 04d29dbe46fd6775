"""The phases of a secure sum as asks of devices, and their answers as messages of the sum.

    sums = SumAsks(jobs, upload_bytes)
    requests = sums.requests({0: roster, 3: roster})
    shares = sums.read(3, answer, inbox)            # None if it is not what was asked for

Masked values come as a file, like an update; everything else is JSON.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from leff.engines.flower.exchange import Request
from leff.errors import RunError, SecureSumError
from leff.privacy.secure_messages import (
    ANSWERS,
    NOBODY,
    Masked,
    Roster,
    SumAnswer,
    SumAsk,
    parted,
    phase_of,
)
from leff.wire.asks import Answer, Phase
from leff.wire.json import MOST_BYTES, from_json, to_json
from leff.wire.messages import Job
from leff.wire.own_words import own_words

MOST_SUM_BYTES = MOST_BYTES * 3 // 4  # the rest is for the ask around it, and for escapes
log = logging.getLogger("leff.network")


class SumAsks:
    """One round's sum, on its clients' jobs."""

    def __init__(self, jobs: Mapping[int, Job], upload_bytes: Callable[[Job], int]) -> None:
        """`upload_bytes` bounds a job's update."""
        self._jobs, self._upload_bytes = jobs, upload_bytes
        self._roster = NOBODY
        self._phase: Phase = ""

    def requests(self, asks: Mapping[int, SumAsk]) -> dict[int, Request]:
        """Return what each client is asked in a phase; all are asked in the same one.

        Raises RunError if a message is longer than devices read.
        """
        texts = {id(ask): to_json(ask) for ask in {id(ask): ask for ask in asks.values()}.values()}
        found: dict[int, Request] = {}
        for client, ask in asks.items():
            job = self._jobs[client]
            self._phase = phase_of(ask)
            self._roster = ask if isinstance(ask, Roster) else self._roster
            whole = replace(job, upload="full")  # a value under masks has four bytes too
            most = self._upload_bytes(whole) if self._phase == "mask" else 0
            text, job_text = texts[id(ask)], to_json(job)
            if len(text) + len(job_text) > MOST_SUM_BYTES:
                raise RunError(
                    f"a message of the secure sum has {len(text) + len(job_text):,} bytes for "
                    f"{len(asks)} clients, and devices read {MOST_SUM_BYTES:,}; lower "
                    "clients.per_round"
                )
            found[client] = Request("sum", job_text, job.parts, most, self._phase, text)
        return found

    def read(self, client: int, answer: Answer | None, inbox: Path) -> SumAnswer | None:
        """Return a client's message, or None for one that does not take part in the phase."""
        reason = "no answer by the deadline" if answer is None else own_words(answer.refusal)
        try:
            if answer is not None and not reason:
                return self._read(client, answer, inbox)
        except (RunError, SecureSumError) as error:
            reason = str(error)
        log.warning("client %d leaves the secure sum (%s): %s", client, self._phase, reason)
        return None

    def _read(self, client: int, answer: Answer, inbox: Path) -> SumAnswer:
        message = from_json(ANSWERS[self._phase], answer.sum)
        if message.client != client:
            raise SecureSumError("it answers for another client", client)
        if not isinstance(message, Masked):
            return message
        file = arrived(inbox, answer.digest)
        if file is None:
            raise SecureSumError("its values did not arrive", client)
        values = file.read_bytes()
        file.unlink()
        return parted(values, client, self._roster.groups)


def arrived(inbox: Path, digest: str) -> Path | None:
    """Return the file that arrived under a digest which a device named, or None."""
    file = inbox / digest
    return file if len(digest) == 64 and digest.isalnum() and file.is_file() else None
