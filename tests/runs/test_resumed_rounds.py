"""A run that was killed in the middle of a round goes on with the updates that it had."""

import json

import pytest
from tiny_runs import Killed, least, outcome, raises

import leff
from leff.engines import local
from leff.errors import ConfigError
from leff.files import sealed
from leff.server import Server

pytestmark = pytest.mark.usefixtures("quick_runs")
CLIENTS = 4
SLOW = [
    *(("leff", "full"), ("leff", "bf16"), ("fedavg", "int8"), ("fedlora", "int8")),
    *(("fedbitfit", "bf16"), ("slora", "int8"), ("flora", "full"), ("flexlora", "full")),
]
RUNS = [
    *(("fedavg", "full"), ("leff", "int8")),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
]


class Kill:
    """Progress that dies at an update's arrival, counted over the run."""

    def __init__(self, at):
        self.left = at

    def __getattr__(self, name):
        return self._trained if name == "trained" else lambda *event: None

    def _trained(self, index, update):
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    top = tmp_path_factory.mktemp("resumed")

    def of(method, upload, **changes):
        given = {"method__name": method, "engine__upload": upload, "context__name": "drop"}
        return least(top, clients__count=CLIENTS, data__train_examples=24, **given, **changes)

    return of


@pytest.fixture
def trained(monkeypatch):
    """The (round, client) of each job that a client begins."""
    calls, original = [], local.train_or_fail

    def counted(job, *arguments):
        calls.append((job.round, job.client))
        return original(job, *arguments)

    monkeypatch.setattr(local, "train_or_fail", counted)
    return calls


@pytest.mark.parametrize(("method", "upload"), RUNS)
def test_the_same_bits_and_nobody_works_twice(method, upload, settings, trained, tmp_path):
    """Killed after three of four updates of the last round, and again after the fourth."""
    options, folder = settings(method, upload, training__rounds=2), tmp_path / "run"
    leff.run(**options, out=tmp_path / "whole")
    wanted = outcome(tmp_path / "whole")
    assert sorted(trained) == [(r, c) for r in range(2) for c in range(CLIENTS)]
    trained.clear()
    with pytest.raises(Killed):
        leff.run(**options, out=folder, progress=Kill(CLIENTS + 3))
    assert len(trained) == CLIENTS + 3
    with pytest.raises(Killed):
        leff.resume(folder, progress=Kill(1))
    leff.resume(folder)
    assert outcome(folder) == wanted
    assert sorted(trained) == [(r, c) for r in range(2) for c in range(CLIENTS)]
    assert not {"updates", "residuals", "parts"} & {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("upload", ["full", "int8"])
def test_killed_between_training_and_arrival(upload, settings, trained, tmp_path, monkeypatch):
    """The client has kept its residuals, the server has no update: it trains again, the same."""
    options, folder = settings("leff", upload, training__rounds=2), tmp_path / "run"
    leff.run(**options, out=tmp_path / "whole")
    trained.clear()
    receive, calls = Server.receive, []

    def dying(server, update):
        calls.append(update)
        return raises() if len(calls) == CLIENTS + 2 else receive(server, update)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Server, "receive", dying)
        leff.run(**options, out=folder)
    leff.resume(folder)
    assert outcome(folder) == outcome(tmp_path / "whole")
    twice = [job for job in trained if trained.count(job) == 2]
    assert len(set(twice)) == 1 and len(trained) == 2 * CLIENTS + 1


def change_job(header, payload):
    entry = json.loads(header.read_text())
    header.write_text(json.dumps(sealed({**entry, "job": "0" * 64})))


def cut(header, payload):
    payload.write_bytes(payload.read_bytes()[:-4])


@pytest.mark.parametrize("spoil", [change_job, cut])
def test_an_update_of_another_job_or_a_damaged_one_is_asked_for_again(
    spoil, settings, trained, tmp_path
):
    options, folder = settings("fedavg", "full", training__rounds=1), tmp_path / "run"
    leff.run(**options, out=tmp_path / "whole")
    with pytest.raises(Killed):
        leff.run(**options, out=folder, progress=Kill(3))
    spoil(folder / "updates" / "client-1.json", folder / "updates" / "client-1.safetensors")
    trained.clear()
    leff.resume(folder)
    assert sorted(trained) == [(0, 1), (0, 3)]
    assert outcome(folder) == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("upload", ["bf16", "int8"])
def test_an_older_checkpoint_has_its_residuals_too(upload, settings, tmp_path):
    options, folder = settings("leff", upload, training__rounds=3), tmp_path / "run"
    leff.run(**options, out=tmp_path / "whole")
    with pytest.raises(Killed):
        leff.run(**options, out=folder, progress=Kill(2 * CLIENTS + 2))
    state = folder / "checkpoints" / "round-0002" / "state.json"
    state.write_bytes(b"{")
    leff.resume(folder)
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_rounding_changes_the_bits_and_the_bytes(settings, tmp_path):
    results = {}
    for upload in ("full", "bf16", "int8"):
        options = settings("fedavg", upload, training__rounds=1)
        results[upload] = leff.run(**options, out=tmp_path / upload).result
    sent = {upload: result["upload_bytes"] for upload, result in results.items()}
    assert 0.5 < sent["bf16"] / sent["full"] < 0.6 and 0.25 < sent["int8"] / sent["full"] < 0.45
    losses = [result["after"]["loss"] for result in results.values()]
    assert len(set(losses)) == 3 and max(losses) - min(losses) < 0.01


@pytest.mark.parametrize("method", ["flora", "flexlora"])
def test_adapters_of_another_basis_each_round_are_sent_whole(method, settings, tmp_path):
    with pytest.raises(
        ConfigError, match=rf"engine.upload = 'int8' cannot be used by {method}: its"
    ):
        leff.run(**settings(method, "int8"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
