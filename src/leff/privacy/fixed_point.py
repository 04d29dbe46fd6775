"""Floats as whole numbers modulo 2^32, so that masks can be added to them and cancel exactly.

fixed = FixedPoint(clip=1.0, clients=40)     # scale 2^25
total = fixed.encode(mine) + fixed.encode(theirs)
sums = fixed.decode(total)                   # the exact sum of the rounded values, float64
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leff.errors import SecureSumError

LARGEST_SUM = 2**31 - 1  # of the signed range
SLACK = 2**-20  # a norm that was clipped in float32 may be above its bound by a few last bits
CLIPS = (1e-20, 1e20)  # so that scaling is exact in float32
MOST_CLIENTS = 2**20


@dataclass(frozen=True)
class FixedPoint:
    """Values of [-clip, clip], in steps of 1/scale, of which `clients` can be added up.

    A value is rounded to the nearest step, so it is off by at most 1/(2 · scale), and the sum of n
    values by at most n/(2 · scale).  The scale is the largest power of two with which no sum of
    `clients` values leaves the signed range.  So 1/(2 · scale) is below clip · clients / 2^30.
    A power of two also makes scaling exact: nothing but the rounding is lost.

    Raises SecureSumError for a clip or a number of clients that is out of its range.
    """

    clip: float
    clients: int

    def __post_init__(self) -> None:
        least, most = CLIPS
        if not least <= self.clip <= most:
            raise SecureSumError(f"clip must be between {least} and {most}, got {self.clip}")
        if not 1 <= self.clients <= MOST_CLIENTS:
            raise SecureSumError(
                f"clients must be between 1 and {MOST_CLIENTS}, got {self.clients}"
            )

    @property
    def largest(self) -> float:
        """The largest value that is taken."""
        return self.clip * (1 + SLACK)

    @cached_property
    def scale(self) -> float:
        """Steps in 1.0."""
        steps = LARGEST_SUM // self.clients  # that one value may have
        return 2.0 ** (math.frexp(steps / self.largest)[1] - 1)

    @property
    def width(self) -> float:
        """The width of the range in which sums are; what leaves it comes in at the other end."""
        return 2**32 / self.scale

    def bound(self, count: int) -> float:
        """Return the largest L2 norm of `count` rounded values whose norm was at most the clip."""
        return self.clip + math.sqrt(count) / (2 * self.scale)

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint32]:
        """Return values as whole numbers, negative ones as 2^32 less.

        Raises SecureSumError for a value that is not finite or above the clip, and for values that
        are no floats.
        """
        if values.dtype.kind != "f":
            raise SecureSumError(f"values to add up must be floats, got {values.dtype}")
        exact = values.astype(np.result_type(values, np.float32), copy=False)
        if not float(np.max(np.abs(exact), initial=0.0)) <= self.largest:
            (place, *_) = np.flatnonzero(~(np.abs(exact).astype(np.float64) <= self.largest))
            raise SecureSumError(
                f"value {place} is {exact.flat[place]}, and has to be within ±{self.clip}; clip "
                "the update before it is encoded"
            )
        return np.rint(exact * self.scale).astype(np.int32).view(np.uint32)

    def decode(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Return the sum of at most `clients` encoded arrays as float64, exactly."""
        return total.view(np.int32) / self.scale
