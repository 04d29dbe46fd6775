"""One process at a time has a run's folder, from the first look to the end."""

import pytest
from tiny_runs import least

import leff
from leff.api import new_folder
from leff.errors import ConfigError, RunError
from leff.runs import prepare
from leff.runs.federation import Silent
from leff.runs.folder import RunFolder, list_runs
from leff.runs.options import RunConfig

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture
def settings(tmp_path):
    return least(tmp_path, training__rounds=1)


def first(monkeypatch, target, name, work):
    """Do some work before the first call of a function."""
    original, calls = getattr(target, name), []

    def later(*arguments, **named):
        calls.append(1)
        if len(calls) == 1:
            work()
        return original(*arguments, **named)

    monkeypatch.setattr(target, name, later)


def counted(function, calls):
    return lambda *arguments: calls.append(arguments) or function(*arguments)


def test_a_run_that_is_slow_to_load_keeps_the_others_out(settings, tmp_path, monkeypatch):
    """The other has other options; neither goes on from the checkpoints of the other."""
    other, folder = {**settings, "seed": 1}, tmp_path / "run"

    def in_between():
        with pytest.raises(RunError, match="is being run by another process; wait for it"):
            leff.run(**other, out=folder)

    first(monkeypatch, prepare, "prepare", in_between)
    assert leff.run(**settings, out=folder).result["seed"] == 0
    assert RunFolder.open(folder)[1].seed == 0


def test_a_run_that_was_begun_since_the_first_look(settings, tmp_path, monkeypatch):
    other, folder = {**settings, "seed": 1}, tmp_path / "run"
    first(monkeypatch, RunFolder, "lock", lambda: leff.run(**other, out=folder))
    with pytest.raises(ConfigError, match="a run with another configuration; choose another"):
        leff.run(**settings, out=folder)
    assert RunFolder(folder).result()["seed"] == 1


def test_a_run_that_was_finished_since_the_first_look(settings, tmp_path, monkeypatch):
    run = leff.run(**settings, out=tmp_path / "run")
    (run.folder / "result.json").unlink()
    prepared = []
    first(monkeypatch, RunFolder, "lock", lambda: leff.resume(run.folder))
    monkeypatch.setattr(prepare, "prepare", counted(prepare.prepare, prepared))
    assert leff.resume(run.folder).result == run.result
    assert len(prepared) == 1  # by the other


def test_who_only_reads_needs_no_lock(settings, tmp_path):
    seen = []

    class Reader(Silent):
        def measured(self, record):
            if record.round:
                seen.append(leff.evaluate(tmp_path / "run", examples=2)["metrics"])
                seen.append(leff.generate(tmp_path / "run", ["a"], max_new_tokens=2))
                seen.append(list_runs(tmp_path)[0]["problem"])
                with pytest.raises(RunError, match="is being run by another process"):
                    leff.resume(tmp_path / "run")

    leff.run(**settings, out=tmp_path / "run", progress=Reader())
    assert len(seen) == 3 and seen[-1] is None


def test_a_run_that_never_began_leaves_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = {**settings, "clients.layers": [9], "method.name": "leff"}
    for out in ("new", "there", None):
        if out == "there":
            (tmp_path / out).mkdir()
        with pytest.raises(ConfigError, match="layers must be 1 to 4"):
            leff.run(**wrong, out=out)
    assert not (tmp_path / "new").exists() and not list((tmp_path / "runs").iterdir())
    assert (tmp_path / "there").is_dir() and not list((tmp_path / "there").iterdir())


def test_two_runs_in_the_same_second(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "now")
    assert [new_folder(RunConfig()).name for _ in range(3)] == [
        "now-sample-leff",
        "now-sample-leff-1",
        "now-sample-leff-2",
    ]


def test_a_lock_whose_file_was_removed_is_no_lock(tmp_path):
    """The process that had it removed its file just when this one opened it."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunError, match="another process"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *_: (folder.path / ".lock").unlink())
        with folder.lock():
            pass
    assert not list(folder.path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"cannot be written .* see --out"),
        RunFolder(tmp_path / "file" / "run").lock(),
    ):
        pass
