"""A round needs an update that can be used, whoever fails and however many."""

import pytest
from tiny_runs import least

import leff
from leff.client import train as client
from leff.errors import RunError

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture
def failing(monkeypatch):
    """Make clients fail: `failing(error, clients, from_round, to_round)`."""
    real = client.train

    def fail(error, clients, first=0, last=99):
        def train(job, *arguments):
            if job.client in clients and first <= job.round <= last:
                raise error
            return real(job, *arguments)

        monkeypatch.setattr(client, "train", train)

    return fail


def run(tmp_path, **changes):
    return leff.run(**least(tmp_path, clients__min_examples=1, **changes), out=tmp_path / "run")


@pytest.mark.parametrize(
    ("clients", "per_round", "broken"), [(1, 1.0, {0}), (3, 1.0, {0, 1, 2}), (3, 0.4, {0, 1, 2})]
)
def test_a_round_in_which_all_fail_ends_the_run(
    clients, per_round, broken, tmp_path, failing, caplog
):
    """What an error says may be private: only the client's own log has it."""
    failing(ValueError("no row 12"), broken, first=1)
    words = r"round 2: no client's update .*training failed with ValueError\)"
    with pytest.raises(RunError, match=words) as error:
        run(tmp_path, clients__count=clients, clients__per_round=per_round)
    assert "no row 12" not in str(error.value) and "no row 12" in caplog.text
    kept = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not any(b"no row 12" in content for content in kept)
    assert not (tmp_path / "run" / "result.json").exists()
    with pytest.raises(RunError, match="round 2: no client's update"):
        leff.resume(tmp_path / "run")


@pytest.mark.parametrize("broken", [{0}, {0, 2}])
def test_a_round_in_which_some_fail_goes_on(broken, tmp_path, failing):
    failing(ValueError("no row 12"), broken)
    done = run(tmp_path, clients__count=3)
    assert done.result["failures"] == 2 * len(broken)


@pytest.mark.slow
def test_memory_that_runs_out_once_is_asked_for_less(tmp_path, failing, caplog):
    failing(MemoryError(), {0, 1}, last=0)
    done = run(tmp_path)
    assert [record.failures for record in done.records()[1:]] == [2, 0]
    assert "round 1 changes nothing" in caplog.text


@pytest.mark.slow
def test_memory_that_always_runs_out_ends_the_run(tmp_path, failing):
    """There are few ways to need less; then every client sits out."""
    failing(MemoryError(), {0, 1})
    with pytest.raises(RunError, match=r"every client sat out \(the first: its memory ran out"):
        run(tmp_path, training__rounds=99)


def test_memory_and_another_failure_end_the_run(tmp_path, monkeypatch):
    errors = {0: MemoryError(), 1: ValueError("no row 12")}

    def train(job, *_):
        raise errors[job.client]

    monkeypatch.setattr(client, "train", train)
    with pytest.raises(RunError, match="round 1: no client's update"):
        run(tmp_path)


@pytest.mark.slow
def test_a_round_of_clients_that_sit_out_waits_for_others(tmp_path, failing):
    """Client 0 runs out of memory until it sits out; a round draws one of the two."""
    failing(MemoryError(), {0})
    done = run(tmp_path, clients__per_round=0.5, training__rounds=16)
    records = done.records()[1:]
    assert any(record.sat_out and not record.clients for record in records)
    assert any(record.failures == 0 and record.clients for record in records)
