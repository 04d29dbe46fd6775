"""What a device keeps for itself, over all runs of its federation."""

import stat
from dataclasses import replace

import numpy as np
import pytest
from small_rounds import CPU, job_of
from tiny_models import tiny

from leff.device import work
from leff.device.data import ClientData, DeviceData
from leff.device.settings import DeviceSettings
from leff.device.work import Kept, Worker
from leff.tasks.encode import Example
from leff.wire.asks import Ask, DeviceReport, TaskCard
from leff.wire.json import to_json
from leff.wire.messages import Part, Update


def worker(folder):
    folder.mkdir(exist_ok=True)
    return Worker(folder, "a federation", DeviceSettings(), None, CPU, "a session")


def data(last):
    ids = [np.array(each, dtype=np.int32) for each in ([5, 6, 7], [8, 9])]
    pairs = zip(ids, (0, last), strict=True)
    return DeviceData((ClientData("a", [Example(i, label=n) for i, n in pairs], []),))


def test_the_digest_of_data_tells_nothing_to_who_has_not_the_devices_secret(tmp_path):
    """With the plain digest, who knows all but the last label finds it by trying."""
    own, other = (worker(tmp_path / name)._secret for name in "ab")
    assert work._digest(data(1), own) == work._digest(data(1), own)
    assert work._digest(data(1), own) != work._digest(data(0), own)
    assert work._digest(data(1), own) != work._digest(data(1), other)


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path):
    assert worker(tmp_path)._secret == worker(tmp_path)._secret
    assert stat.S_IMODE((tmp_path / "data.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("run", ["a" * 32, "b" * 32])
def test_one_note_of_sums_is_for_all_runs(run, tmp_path, store, monkeypatch):
    """Two runs of one configuration have the same jobs: their sums' difference is an update."""
    job = replace(job_of(tiny("gpt2", "generation"), "generation", store, range(1)), held=True)
    own, seen = worker(tmp_path), []

    class Seen:
        def __init__(self, folder, told):
            seen.append(told._path)

        def answer(self, *_):
            return "", None

    monkeypatch.setattr(work, "KeptSum", Seen)
    part = Part("0" * 64, 1)
    card = TaskCard(**{**dict.fromkeys(TaskCard.__dataclass_fields__), "tokenizer": part})
    ask = Ask("sum", "1", "a federation", run, card, "token", job=to_json(job), phase="advertise")
    Kept(own._outbox / run, job.client, ask.job).write(Update(0, job.client, (0,), 5, b"some"))
    own._sum(ask, DeviceReport("1", "s", "d", ()), until=1e12)
    assert seen == [tmp_path / "sums.json"]
