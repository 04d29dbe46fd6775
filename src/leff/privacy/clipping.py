"""The factor that clips what training changed, so that its norm is a bound's at most.

changes = {name: change * clip_factor(norm, clip) for name, change in changes.items()}
"""

import math


def clip_factor(norm: float, clip: float) -> float:
    """Return what a difference of this norm is multiplied with, so that its norm is at most `clip`.

    The largest float below clip / norm is taken, so that rounding cannot pass the clip.
    """
    return 1.0 if norm <= clip else math.nextafter(clip / norm, 0.0)
