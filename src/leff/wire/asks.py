"""What a server asks of a device, and what the device answers: small JSON texts, no tensors.

    Ask("report", ...)      # who are you, what can you do, how many examples do you have?
    Ask("train", ...)       # do this job; its parts are fetched with `token`
    Ask("measure", ...)     # measure this model on your own validation examples
    Ask("sum", ...)         # do this phase of a secure sum with the update of this job

Jobs, updates, measures and the messages of sums are texts of JSON within the text, so each is read
by its own rules.  A device can stand for several clients, each with a file of its own.  `share` is
the file's place.
"""

from dataclasses import dataclass
from typing import Literal

from leff.wire.messages import Device, TaskCard

About = Literal["report", "train", "measure", "sum"]
Phase = Literal["", "advertise", "share", "mask", "unmask"]  # of a secure sum


@dataclass(frozen=True)
class Ask:
    """A request to one client of a device."""

    about: About
    leff: str  # the server's version
    federation: str
    run: str
    task: TaskCard
    token: str  # for parts and the update
    share: int = 0
    data: str = ""  # digest of the examples that the device reported
    job: str = ""  # JSON of a Job or a MeasureJob
    seconds: float = 0.0  # until the server no longer waits; 0: it waits
    partial: bool = False  # whether fewer steps than asked for are of use
    phase: Phase = ""
    sum: str = ""  # JSON of what `privacy.secure_messages.ASKS` has for the phase


@dataclass(frozen=True)
class ShareReport:
    """One client's numbers of examples."""

    examples: int
    validation: int


@dataclass(frozen=True)
class DeviceReport:
    """What a device says of itself.  `session` is drawn anew when its process starts."""

    leff: str
    session: str
    data: str  # digest of all its examples
    shares: tuple[ShareReport, ...]
    layers: int | None = None  # the most it will train; None: as many as fit
    memory_bytes: int | None = None  # for the peak of a step; None: no limit
    device: Device | None = None  # its speeds, if all are known


@dataclass(frozen=True)
class Answer:
    """What a device answers; `refusal` says why it does not do what was asked."""

    about: About
    report: DeviceReport | None = None
    update: str = ""  # JSON of an Update; its payload was uploaded
    digest: str = ""  # of what was uploaded, a payload or masked values; "" if nothing was
    measure: str = ""  # JSON of a Measure
    sum: str = ""  # JSON of what `privacy.secure_messages.ANSWERS` has for the phase
    refusal: str = ""
