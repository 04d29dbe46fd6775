"""The virtual clock: the predicted seconds of a client's round on its device.

    needs = Needs(download_bytes=16_500_000, upload_bytes=1_200_000, step_flops=6_000_000_000)
    spent = round_seconds(needs, device, steps=10)
    spent.total, steps_within(needs, device, seconds=30)

seconds = download bytes / bandwidth + steps · step operations / speed + upload bytes / bandwidth.
The three follow one another at full speed.  Latency and the server's own work are left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leff.wire.messages import Device


@dataclass(frozen=True)
class Needs:
    """One client's round: bytes down and up, and operations of a step."""

    download_bytes: int
    upload_bytes: int
    step_flops: int


@dataclass(frozen=True)
class Seconds:
    """The parts of a client's round, in seconds."""

    download: float
    compute: float
    upload: float

    @property
    def total(self) -> float:
        return self.download + self.compute + self.upload


def round_seconds(needs: Needs, device: Device, steps: int) -> Seconds:
    """Return the seconds of a round of `steps` steps on the device."""
    return Seconds(
        needs.download_bytes / device.down_bytes_per_second,
        steps * needs.step_flops / device.flops_per_second,
        needs.upload_bytes / device.up_bytes_per_second,
    )


def steps_within(needs: Needs, device: Device, seconds: float, most: int) -> int:
    """Return the largest number of steps, up to `most`, whose round takes at most `seconds`.

    -1 if a round without any step takes longer.
    """
    left = seconds - round_seconds(needs, device, 0).total
    if left < 0:
        return -1
    a_step = needs.step_flops / device.flops_per_second
    steps = most if a_step * most <= left else math.floor(left / a_step)
    while steps > 0 and round_seconds(needs, device, steps).total > seconds:
        steps -= 1  # rounding
    return steps


def idle_share(own_seconds: Sequence[float]) -> float | None:
    """Return the mean over clients of 1 - own / longest, in [0, 1].

    None without clients; 0 if no client took any time.
    """
    if not own_seconds:
        return None
    longest = max(own_seconds)
    if not longest:
        return 0.0
    return sum(1 - own / longest for own in own_seconds) / len(own_seconds)
