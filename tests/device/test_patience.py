"""How long a device tries again."""

import pytest

from leff.device import patience
from leff.device.patience import Patience, TryAgainError
from leff.errors import NetworkError


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves; what was slept."""
    slept = []
    monkeypatch.setattr(patience.time, "monotonic", lambda: 100.0 + sum(slept))
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    return slept


def until_given_up(waiting):
    with pytest.raises(NetworkError, match=r"^no server \(given up\)$") as caught:
        for _ in range(10_000):
            waiting.wait(TryAgainError("no server"))
    assert type(caught.value) is NetworkError


def test_waits_grow_and_end_in_time(clock):
    until_given_up(Patience(600.0))
    assert 580 < sum(clock) <= 600
    assert all(0.25 * 2**n <= seconds <= 0.5 * 2**n for n, seconds in enumerate(clock[:5]))
    assert max(clock) <= patience.LONGEST_SECONDS


def test_bytes_that_pass_renew_it(clock):
    waiting = Patience(10.0)
    for _ in range(5):
        waiting.wait(TryAgainError("no server"))
        waiting.moved()
    assert all(seconds <= patience.FIRST_SECONDS for seconds in clock)
    until_given_up(waiting)
    assert sum(clock[5:]) <= 10.0


def test_the_deadline_ends_it_whatever_passes(clock):
    waiting = Patience(600.0, until=105.0)
    waiting.moved()
    until_given_up(waiting)
    assert sum(clock) <= 5.0
    clock.append(6.0)
    with pytest.raises(NetworkError, match="time for this transfer is over"):
        waiting.moved()
