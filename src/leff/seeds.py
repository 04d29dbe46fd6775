"""Seeds derived from what they are for, so that every engine draws the same numbers.

    with forked(derive_seed(run_seed, "client", round_index, client)): model(batch)

No random state outlives a round.  A round's draws depend on the run's seed and the round alone,
so a resumed run equals one that was never stopped.
"""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) that depends on every part and on their order."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(*parts: int | str) -> "np.random.Generator":
    """Return a numpy generator seeded by `derive_seed(*parts)`."""
    import numpy as np

    return np.random.default_rng(derive_seed(*parts))


@contextmanager
def forked(seed: int) -> Generator[None]:
    """Run the body with torch's global generators seeded, and restore their states after it.

    Dropout, a new head's initialisation and peft's adapters draw from the global generators.
    """
    import torch

    devices = range(torch.cuda.device_count())
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=devices):  # pyright: ignore[reportUnknownMemberType]  # untyped
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]  # untyped
        try:
            yield
        finally:
            if apple is not None:
                torch.mps.set_rng_state(apple)
