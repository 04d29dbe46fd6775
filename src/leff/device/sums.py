"""A device's side of secure sums: on disk, so that a process can end between two phases.

    kept = KeptSum(outbox / run / "client-3", told)
    text, values = kept.answer("share", text_of_the_roster, held)

The last ask gets the same answer if it comes again.  Of one update a device tells one set of sums
only: a second one, over other clients, would tell the difference.  So after a kill the server gets
the very same sums again, or none.  It looks at that before its values go out: from then on others
can open the sum without it.
"""

import hashlib
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from leff.client.summed import Held
from leff.errors import CheckpointError, RunError, SecureSumError
from leff.files import read_json, write_atomically, write_json
from leff.privacy.secure_client import ClientState
from leff.privacy.secure_messages import ASKS, Boxes, Invitation, Masked, Survivors, joined
from leff.wire.asks import Phase
from leff.wire.json import from_json, job_digest, to_json

MOST_STATE = 2**28  # bytes of this device's own state
STATE = "sum.json"


class Told:
    """What each update was summed with, over all runs, on disk; nothing is forgotten.

    Two runs of one configuration have the same jobs, so the second is held to the first one's sums.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, held: Held, phase: Phase, left: Collection[int]) -> None:
        """Note the sums that are opened, or would be, with the clients that a phase has left.

        Raises SecureSumError if it was others for the same job; CheckpointError for a damaged file.
        """
        remedy = "this device does not know what it has told; delete it to begin anew"
        told: dict[str, str] = read_json(self._path, remedy) or {}
        sums = json.dumps([sorted(left), held.opened(left)])
        key, digest = f"{job_digest(held.job)} {phase}", hashlib.sha256(sums.encode()).hexdigest()
        if told.setdefault(key, digest) != digest:
            raise SecureSumError(
                f"the update of client {held.job.client} in round {held.job.round} was summed with "
                "those of other clients before, and the difference of two sums would tell it"
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
        ask, invited = from_json(ASKS[phase], text), kept.get("invited")
        if isinstance(ask, Invitation):
            if asked == invited:
                raise SecureSumError("this device was invited to this sum before")
            own, invited = held(None), asked
        elif kept.get("state"):
            own = held(self._state(kept["state"]))
        else:
            raise SecureSumError("this device has no keys for the sum; it was not invited")
        answer, values = own.answer(ask), ""
        if isinstance(ask, Boxes):  # before its values are in a sum, which others may open
            self._told.note(own, phase, {own.job.client, *ask.boxes})
        if isinstance(ask, Survivors):
            self._told.note(own, phase, ask.clients)
        if isinstance(answer, Masked):
            content = joined(answer)
            values = hashlib.sha256(content).hexdigest()
            write_atomically(self._folder / values, content)
            answer = replace(answer, values={})
        answered = to_json(answer)
        state = {
            "invited": invited,
            "asked": asked,
            "answer": answered,
            "values": values,
            "state": "" if isinstance(ask, Survivors) else to_json(own.state),  # its secrets
        }
        write_json(self._folder / STATE, state, secret=True)
        if kept.get("values"):
            (self._folder / kept["values"]).unlink(missing_ok=True)
        return answered, self._folder / values if values else None

    def _read(self) -> dict[str, Any]:
        with suppress(OSError, CheckpointError):
            return read_json(self._folder / STATE, "") or {}
        return {}

    def _state(self, text: str) -> ClientState:
        try:
            return from_json(ClientState, text, MOST_STATE)
        except RunError:
            raise SecureSumError("this device's keys for the sum are damaged") from None
