"""A device's side of secure sums: on disk, so that a process can end between two phases.

    kept = KeptSum(outbox / run / "client-3", told)
    text, values = kept.answer("share", text_of_the_roster, held)

An ask that comes twice gets the same answer.  Of one update a device tells one set of sums only: a
second one, over other clients, would tell the difference.  So after a kill the server gets the very
same sums again, or none.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from leff.client.summed import Held
from leff.errors import CheckpointError, RunError, SecureSumError
from leff.files import read_json, write_atomically, write_json
from leff.privacy.secure_client import ClientState
from leff.privacy.secure_messages import ASKS, Invitation, Masked, Survivors, joined
from leff.wire.asks import Phase
from leff.wire.json import from_json, job_digest, to_json
from leff.wire.messages import Job

MOST_STATE = 2**28  # bytes of this device's own state
STATE = "sum.json"


class Told:
    """Which sums have a share in them of each update of a run, on disk; nothing is forgotten."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, job: Job, opened: Mapping[tuple[str, ...], tuple[int, ...]]) -> None:
        """Note the tensors that are opened for a job, with whose sums they are.

        Raises SecureSumError if others were for the same job; CheckpointError for a damaged file.
        """
        remedy = "this device does not know what it has told; delete it to begin anew"
        told: dict[str, str] = read_json(self._path, remedy) or {}
        sums = json.dumps(sorted([list(names), list(who)] for names, who in opened.items()))
        key, digest = job_digest(job), hashlib.sha256(sums.encode()).hexdigest()
        if told.setdefault(key, digest) != digest:
            raise SecureSumError(
                f"the update of client {job.client} in round {job.round} was summed with those of "
                "other clients before, and the difference of two sums would tell it"
            )
        write_json(self._path, told)


class KeptSum:
    """A client's side of one sum, and its last answer."""

    def __init__(self, folder: Path, told: Told) -> None:
        """`folder` is the client's, which is cleared at its next job."""
        self._folder, self._told = folder, told

    def answer(
        self, phase: Phase, text: str, held: Callable[[ClientState | None], Held]
    ) -> tuple[str, Path | None]:
        """Return the answer to a phase in JSON, and the file of the masked values, if any.

        `held` makes the client's update go on from a state.  Raises SecureSumError for an ask that
        is out of order or unsafe, RunError for one that cannot be read.
        """
        asked = hashlib.sha256(f"{phase}\n{text}".encode()).hexdigest()
        kept = self._read()
        if kept.get("asked") == asked:
            values = kept["values"] and self._folder / kept["values"]
            return kept["answer"], values or None
        if phase not in ASKS:
            raise SecureSumError(f"a sum has the phases {', '.join(ASKS)}, and not {phase!r}")
        ask = from_json(ASKS[phase], text)
        if not (isinstance(ask, Invitation) or "state" in kept):
            raise SecureSumError("this device has no keys for the sum; it was not invited")
        own = held(None if isinstance(ask, Invitation) else self._state(kept["state"]))
        answer, values = own.answer(ask), ""
        if isinstance(ask, Survivors):
            self._told.note(own.job, own.opened(ask))
        if isinstance(answer, Masked):
            content = joined(answer)
            values = hashlib.sha256(content).hexdigest()
            write_atomically(self._folder / values, content)
        own_text = to_json(replace(answer, values={}) if isinstance(answer, Masked) else answer)
        state = {"asked": asked, "answer": own_text, "values": values, "state": to_json(own.state)}
        write_json(self._folder / STATE, state, secret=True)
        return own_text, self._folder / values if values else None

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, CheckpointError):
            return read_json(self._folder / STATE, "") or {}
        return {}

    def _state(self, text: str) -> ClientState:
        try:
            return from_json(ClientState, text, MOST_STATE)
        except RunError:
            raise SecureSumError("this device's keys for the sum are damaged") from None
