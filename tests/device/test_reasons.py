"""What a device tells the server of an error: words that the server keeps."""

import errno

import pytest

from leff.device.fetch import FullDiskError
from leff.device.work import _reason
from leff.errors import DataError, NetworkError, RefusedError, RunError
from leff.wire.own_words import own_words

SECRET = "Anna is ill"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, SECRET), "its disk is full"),
        (OSError(errno.EFBIG, SECRET), "its disk is full"),
        (FullDiskError(SECRET), "its disk is full"),
        (OSError(errno.EIO, SECRET), "it failed with OSError"),
        (DataError(SECRET), "its data does not fit the task; its own log says why"),
        (RefusedError(SECRET), "a transfer failed: the server refused it"),
        (NetworkError(SECRET), "a transfer failed: the server, or the network, was away"),
        (ValueError(SECRET), "it failed with ValueError"),
    ],
)
def test_reasons(error, reason):
    assert _reason(error) == own_words(_reason(error)) == reason


def test_the_text_of_another_error_is_not_kept():
    assert own_words(_reason(RunError(SECRET))) == "it gives a reason that is not kept"


@pytest.mark.parametrize(
    "reason",
    [
        "the job is of 20,000,000 bytes, this device allows 10,000; see its limits",
        "the job asks for an update of 5 bytes, this device allows 4; see its limits",
        "the job is given 30.0 seconds, this device allows 29.0; see its limits",
        "the job is of 2.5 epochs, this device allows 1.0; see its limits",
    ],
)
def test_what_an_owner_does_not_allow(reason):
    """The words of `client.job_checks`, whose own tests have the same."""
    assert own_words(reason) == reason
