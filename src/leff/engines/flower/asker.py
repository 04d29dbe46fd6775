"""Writes asks to devices, and the grants by which they fetch parts and send updates.

asker.ask("train", asker.grant(key, "round 3 client 0", parts, upload_bytes, inbox), seconds)
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from leff.engines.flower.seam import Network
from leff.errors import RunError
from leff.network.grants import Grant
from leff.wire.asks import About, Answer, Ask
from leff.wire.json import from_json
from leff.wire.messages import Part, TaskCard
from leff.wire.parts import PartStore

GRACE_SECONDS = 600.0  # that a grant outlives what it is for


@dataclass(frozen=True)
class Asker:
    """What all asks of a run have in common; `tokenizer` has the tensors of the task's part.

    A grant ends `seconds` after it was made, and a little later.  `partial` says whether fewer
    steps than asked for are of use.
    """

    network: Network
    run: str
    task: TaskCard
    tokenizer: Mapping[str, torch.Tensor]
    store: PartStore
    seconds: float
    partial: bool

    def ask(self, about: About, token: str, seconds: float = 0.0) -> Ask:
        """Return an ask without a job; after `seconds` the server no longer waits (0: it waits)."""
        return Ask(
            about=about,
            leff=metadata.version("leff"),
            federation=self.network.federation,
            run=self.run,
            task=self.task,
            token=token,
            seconds=seconds,
            partial=self.partial,
        )

    def grant(
        self, device: str, what: str, parts: Sequence[Part], upload_bytes: int, inbox: Path
    ) -> str:
        """Let a device fetch the tokenizer and parts, and send an update; return the token."""
        self.store.put(self.tokenizer)  # parts of earlier rounds are deleted
        return self.network.issue(
            Grant(
                device=device,
                job=f"{self.run} {what}",
                parts={part.digest: part.size_bytes for part in (self.task.tokenizer, *parts)},
                folder=self.store.folder,
                upload_bytes=upload_bytes,
                spool=inbox,
                expires=time.time() + self.seconds + GRACE_SECONDS,
            )
        )


def read_answer(text: str, about: About) -> Answer:
    """Return an answer; one that cannot be read, or is to something else, is a refusal."""
    try:
        answer = from_json(Answer, text)
    except RunError:
        return Answer(about, refusal="its answer cannot be read")
    if answer.about != about and not answer.refusal:
        return Answer(about, refusal="it answers something else")
    return answer
