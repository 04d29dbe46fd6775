"""Variants of a training step that take less memory: split, checkpointed.  Results are the same.

variants(step)                            # 1 part, 2, ... 16; then the same checkpointed
first_that_fits(step, peak, memory_bytes=2 * 10**9)
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from leff.wire.messages import Step


def variants(step: Step) -> list[Step]:
    """Return the step, then its variants in more and more parts, then all of these checkpointed."""
    whole = range(step.accumulation, step.batch_size + 1)
    parts = [number for number in whole if step.batch_size % number == 0]
    flags = (True,) if step.checkpointing else (False, True)
    return [replace(step, accumulation=n, checkpointing=flag) for flag in flags for n in parts]


def smallest(step: Step) -> Step:
    """Return the variant that takes the least memory: one example at a time, checkpointed."""
    return variants(step)[-1]


def first_that_fits(
    step: Step, peak: Callable[[Step], float], memory_bytes: float | None
) -> Step | None:
    """Return the first variant whose peak is within the memory, or None.

    More parts never take more memory.  So the parts are bisected, and few peaks are computed.
    """
    every = variants(step)
    if memory_bytes is None or peak(every[0]) <= memory_bytes:
        return every[0]
    for flag in (False, True):
        group = [variant for variant in every[1:] if variant.checkpointing == flag]
        at = bisect_left(group, True, key=lambda variant: peak(variant) <= memory_bytes)
        if at < len(group):
            return group[at]
    return None
