"""Ways to do a training step: whole, in parts, checkpointed.  Same result, from less memory.

ways(training)                               # Way(1), Way(2), ... Way(16); the same checkpointed
plainest(training, peak, memory_bytes=2 * 10**9)
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Step(Protocol):
    """A batch, and the way that is asked for: none that is tried is plainer."""

    @property
    def batch_size(self) -> int: ...
    @property
    def accumulation(self) -> int: ...
    @property
    def checkpointing(self) -> bool: ...


@dataclass(frozen=True)
class Way:
    """How a step is done, as `LocalTraining` and `Choice` have it."""

    accumulation: int  # parts in which a batch is done
    checkpointing: bool


def ways(asked: Step) -> list[Way]:
    """Return the ways from the one asked for on: in more and more parts, then checkpointed too."""
    whole = range(asked.accumulation, asked.batch_size + 1)
    parts = [number for number in whole if asked.batch_size % number == 0]
    flags = (True,) if asked.checkpointing else (False, True)
    return [Way(number, flag) for flag in flags for number in parts]


def leanest(asked: Step) -> Way:
    """Return the way that holds least: examples one by one, checkpointed."""
    return ways(asked)[-1]


def plainest(asked: Step, peak: Callable[[Way], float], memory_bytes: float | None) -> Way | None:
    """Return the first way whose peak is within the memory; None if none is.

    In more parts a step holds no more, so that few peaks are asked for: parts are bisected.
    """
    found = ways(asked)
    if memory_bytes is None or peak(found[0]) <= memory_bytes:
        return found[0]
    for flag in (False, True):
        group = [way for way in found[1:] if way.checkpointing == flag]
        at = bisect_left(group, True, key=lambda way: peak(way) <= memory_bytes)
        if at < len(group):
            return group[at]
    return None
