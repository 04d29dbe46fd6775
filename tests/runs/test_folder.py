"""The run folder, and runs that are cut off at any moment and go on to the same result."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import Killed, flags, options, outcome, quicken, raises, reseal, write_table

import leff
from leff import api
from leff.errors import CheckpointError, ConfigError, DataError, RunError
from leff.files import sealed, unsealed, write_json
from leff.methods.stand_ins import distil
from leff.record import RoundRecord
from leff.report import picture
from leff.runs import federation
from leff.runs.checkpoints import Checkpoint
from leff.runs.folder import RunFolder, config_digest, list_runs
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml
from leff.wire import tensors
from leff.wire.tensors import pack

CASES = {
    "leff": {"method__name": "leff", "clients__per_round": 0.5},
    "fedavg": {"method__name": "fedavg"},
}


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)


@pytest.fixture(scope="module")
def settings(tiny_gpt2, tmp_path_factory):
    """The options of a tiny run on a table; leff with distil, which has state of its own."""
    table = write_table(tmp_path_factory.mktemp("data") / "train.jsonl", "generation")
    shared = {
        "data__task": "table",
        "data__train": str(table),
        "clients__partition": "iid",
        "evaluation__every": 2,
    }
    return {name: options(tiny_gpt2, **shared, **case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The folder of an uninterrupted run of each method."""
    folders = {name: tmp_path_factory.mktemp("whole") / name for name in CASES}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        for name, folder in folders.items():
            leff.run(**settings[name], out=folder)
    return folders


@pytest.fixture
def copied(whole, tmp_path, quick_runs):
    """A copy of the leff run, made unfinished: its newest checkpoint is of the last round."""
    folder = shutil.copytree(whole["leff"], tmp_path / "run")
    (folder / "result.json").unlink()
    return folder


class Kill(federation.Silent):
    """Dies when the count of one kind of event reaches a number."""

    def __init__(self, event: str, at: int) -> None:
        self.event, self.left = event, at

    def _count(self, event):
        self.left -= event == self.event
        if self.left == 0 and event == self.event:
            raise Killed

    def started(self, federation):
        self._count("started")

    def measured(self, record):
        self._count("measured")

    def planned(self, index, plan):
        self._count("planned")

    def trained(self, index, update):
        self._count("trained")


def kill_in(monkeypatch, target, name, at=1, after=False):
    """Die before (or after) the call number `at` of a function."""
    original, calls = getattr(target, name), []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == at and not after:
            raise Killed
        found = original(*args, **kwargs)
        if len(calls) == at:
            raise Killed
        return found

    monkeypatch.setattr(target, name, dying)


def half_checkpoint(monkeypatch, at):
    """Die when a checkpoint's folder has its first file and some bytes of its second."""
    original, calls = tensors.pack_file, []

    def dying(state, path):
        calls.append(path.name)
        if path.name == "method.safetensors" and calls.count(path.name) == at:
            path.write_bytes(pack(state)[:5])
            raise Killed
        original(state, path)

    monkeypatch.setattr(tensors, "pack_file", dying)


def half_record(monkeypatch, at):
    """Die when only a part of a round's line is on the disk."""

    def dying(folder, record):
        text = json.dumps(sealed(record.to_dict())) + "\n"
        whole = record.round != at
        with (folder.path / "rounds.jsonl").open("a") as file:
            file.write(text if whole else text[: len(text) // 2])
        if not whole:
            raise Killed

    monkeypatch.setattr(RunFolder, "append", dying)


PLACES = {
    "before anything is measured": lambda p: Kill("started", 1),
    "in round 1, after 1 client": lambda p: Kill("trained", 1),
    "in round 2, planned": lambda p: Kill("planned", 2),
    "in round 2, after 1 client": lambda p: Kill("trained", 3),
    "in the first record": lambda p: half_record(p, 0),
    "in the record of round 2": lambda p: half_record(p, 2),
    "before the first record": lambda p: kill_in(p, RunFolder, "append", 1),
    "after the merge of round 2": lambda p: kill_in(p, RunFolder, "append", 3),
    "between record and checkpoint 2": lambda p: kill_in(p, RunFolder, "save_checkpoint", 2),
    "in checkpoint 1": lambda p: half_checkpoint(p, 1),
    "in checkpoint 3": lambda p: half_checkpoint(p, 3),
    "after checkpoint 2": lambda p: kill_in(p, RunFolder, "save_checkpoint", 2, after=True),
    "after the last checkpoint": lambda p: kill_in(p, RunFolder, "save_checkpoint", 3, after=True),
    "before the model is saved": lambda p: kill_in(p, federation, "save_model"),
    "in the saving of the model": lambda p: kill_in(p, federation, "save_model", after=True),
    "before the result": lambda p: kill_in(p, RunFolder, "write_result"),
    "before the picture": lambda p: kill_in(p, picture, "draw_run"),
}


FOR_FEDAVG = (
    "in round 2, after 1 client",
    "between record and checkpoint 2",
    "in the saving of the model",
)


@pytest.mark.parametrize(
    ("name", "place"),
    [*(("leff", place) for place in PLACES), *(("fedavg", place) for place in FOR_FEDAVG)],
)
def test_a_killed_run_goes_on_to_the_same_result(
    name, place, settings, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        leff.run(**settings[name], out=folder, progress=PLACES[place](patch))
    finished = (folder / "result.json").exists()
    assert finished == (place == "before the picture")
    if not finished:  # drawing takes a third of the test's time
        monkeypatch.setattr(picture, "draw_run", lambda records, metric, path: path.touch())
    run = leff.resume(folder)
    assert outcome(folder) == outcome(whole[name])
    assert (run.picture.stat().st_size > 10_000) == finished
    assert not (folder / "parts").exists() and not (folder / "updates").exists()


def test_killed_again_and_again(settings, whole, tmp_path, quick_runs):
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        leff.run(**settings["leff"], out=folder, progress=Kill("trained", 2))
    for count in (1, 2, 1):  # each goes on where the one before was killed
        with pytest.raises(Killed):
            leff.resume(folder, progress=Kill("trained", count))
    leff.resume(folder)
    assert outcome(folder) == outcome(whole["leff"])


STATES = {
    "auto and momentum": {
        "context__name": "auto",
        "clients__memory": ["700kB", "480kB", "5MB"],
        "clients__flops": ["27M", "1G"],
        "method__momentum": 0.5,
    },
    "clients' importance, units": {
        "method__source": "clients",
        "context__bits": 4,
        "context__target_error": 0.05,
    },
    "round robin, mixed": {
        "method__sampling": "round_robin",
        "clients__per_round": 0.5,
        "context__name": "quantise",
        "context__suffix": "distil",
    },
    "the paper": {"preset": "paper"},
    "less memory": {
        "context__bits": 16,
        "training__accumulation": 2,
        "training__checkpointing": True,
        "training__optimizer": "adamw8bit",
        "training__precision": "bfloat16",
    },
}


@pytest.mark.parametrize("name", STATES)
def test_all_state_survives_a_kill(name, settings, tmp_path, quick_runs):
    options = {**settings["leff"], **{k.replace("__", "."): v for k, v in STATES[name].items()}}
    leff.run(**options, out=tmp_path / "whole")
    with pytest.raises(Killed):
        leff.run(**options, out=tmp_path / "run", progress=Kill("trained", 5))
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_what_the_clock_decided_is_done_again(settings, tmp_path, monkeypatch, quick_runs):
    """Killed when the first round's students are made: the clock would now allow all steps."""
    options = {**settings["leff"], "context.steps": 6, "training.rounds": 1}
    clock = iter([0.0, 0.0, 0.0, 9.0])  # the start, and before each step
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(distil, "time", SimpleNamespace(perf_counter=lambda: next(clock, 9.0)))
        leff.run(
            **options, **{"context.seconds": 5.0}, out=tmp_path / "run", progress=Kill("planned", 1)
        )
    stored = (tmp_path / "run" / "decisions.json").read_text()
    assert unsealed(stored) == {"0": {"distil_steps": 2}}
    again = []
    original = distil.Student.step
    monkeypatch.setattr(
        distil.Student, "step", lambda self, *a: again.append(self) or original(self, *a)
    )
    leff.resume(tmp_path / "run")
    assert {again.count(student) for student in again} == {2}


def test_killed_before_the_configuration_is_there(
    settings, whole, tmp_path, monkeypatch, quick_runs
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("leff.runs.folder.write_atomically", raises)
        with pytest.raises(Killed):
            leff.run(**settings["fedavg"], out=folder)
    leff.run(**settings["fedavg"], out=folder)
    assert outcome(folder) == outcome(whole["fedavg"])


def test_resuming_a_finished_run_changes_nothing(whole):
    before = outcome(whole["leff"])
    times = {path: path.stat().st_mtime_ns for path in whole["leff"].rglob("*")}
    assert leff.resume(whole["leff"]).result == before["result"]
    assert {path: path.stat().st_mtime_ns for path in whole["leff"].rglob("*")} == times


@pytest.mark.slow
def test_a_real_kill(settings, whole, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "leff", "run", "--out", str(folder), "--json"]
    environment = {**os.environ, "PATH": ""}  # no Java
    process = subprocess.Popen(
        [*command, *flags(settings["leff"])],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    lines = folder / "rounds.jsonl"
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "result.json").exists()
    done = subprocess.run(
        [sys.executable, "-m", "leff", "resume", str(folder), "--json"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert outcome(folder) == outcome(whole["leff"])


# Damage


def flip(path):
    payload = bytearray(path.read_bytes())
    payload[len(payload) // 2] ^= 1
    path.write_bytes(payload)


DAMAGE = {
    "a flipped byte": lambda c: flip(c / "model.safetensors"),
    "a truncated file": lambda c: os.truncate(c / "method.safetensors", 20),
    "a missing file": lambda c: (c / "server.json").unlink(),
    "a broken state": lambda c: (c / "state.json").write_text('{"round": 3'),
    "a state of another form": lambda c: (c / "state.json").write_text("[]"),
    "an empty folder": lambda c: [path.unlink() for path in c.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, copied, whole, caplog):
    DAMAGE[damage](copied / "checkpoints" / "round-0003")
    assert leff.resume(copied).folder == copied
    assert "round-0003 is damaged" in caplog.text
    assert outcome(copied) == outcome(whole["leff"])


def test_all_checkpoints_damaged(copied, whole):
    for path in (copied / "checkpoints").glob("round-*/model.safetensors"):
        flip(path)
    with pytest.raises(CheckpointError, match=r"every checkpoint .* remove that folder and resume"):
        leff.resume(copied)
    shutil.rmtree(copied / "checkpoints")
    leff.resume(copied)
    assert outcome(copied) == outcome(whole["leff"])


def test_a_checkpoint_of_another_run(copied):
    reseal(copied / "checkpoints" / "round-0003" / "state.json", config_digest="0" * 64)
    with pytest.raises(ConfigError, match="belongs to a run with another configuration; remove"):
        leff.resume(copied)


def test_foreign_things_among_the_checkpoints(copied, whole):
    (copied / "checkpoints" / "round-0004.bak").mkdir()
    (copied / "checkpoints" / ".round-0004").mkdir()
    leff.resume(copied)
    assert outcome(copied) == outcome(whole["leff"])


def test_an_edited_configuration(copied):
    path = copied / "config.toml"
    path.write_text(path.read_text().replace("rounds = 3", "rounds = 4"))
    with pytest.raises(ConfigError, match="undo the edit, or start a new run"):
        leff.resume(copied)


def test_a_comment_in_the_configuration_is_no_edit(copied, whole):
    path = copied / "config.toml"
    path.write_text("# mine\n" + path.read_text())
    leff.resume(copied)
    assert outcome(copied) == outcome(whole["leff"])


def test_lost_records(copied, whole):
    path = copied / "rounds.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(CheckpointError, match=r"line 1 is damaged .it is of round 1, not 0"):
        leff.resume(copied)
    path.write_text("".join(lines[:3]))
    with pytest.raises(CheckpointError, match="lacks records of rounds 0 to 3"):
        leff.resume(copied)
    path.write_text(lines[0][:20] + "\n" + "".join(lines[1:]))
    with pytest.raises(
        CheckpointError, match=r"line 1 is damaged .* remove the folder checkpoints"
    ):
        leff.resume(copied)
    shutil.rmtree(copied / "checkpoints")
    leff.resume(copied)
    assert outcome(copied) == outcome(whole["leff"])


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_lost_environment(copied, content):
    path = copied / "environment.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(CheckpointError, match=r"environment\.json.* start again with `leff run"):
        leff.resume(copied)


def test_a_configuration_alone_is_no_run(tmp_path):
    (tmp_path / "config.toml").write_text("seed = 3")  # as `leff new` makes it
    with pytest.raises(CheckpointError, match=r"no run; `leff run .*config\.toml` starts one"):
        leff.resume(tmp_path)


def test_changed_data(settings, tmp_path):
    table = write_table(tmp_path / "train.jsonl", "generation")
    chosen = {**settings["fedavg"], "data.train": str(table)}
    with pytest.raises(Killed):
        leff.run(**chosen, out=tmp_path / "run", progress=Kill("measured", 2))
    table.write_text(table.read_text().replace("river", "brook"))
    with pytest.raises(DataError, match=r"not what .* was started with \(examples_digest differs"):
        leff.resume(tmp_path / "run")


def test_changed_proxy_data_and_another_device_are_noticed(settings, tmp_path, caplog):
    proxy = write_table(tmp_path / "proxy.jsonl", "generation")
    chosen = {**settings["leff"], "proxy.task": "table", "proxy.train": str(proxy)}
    with pytest.raises(Killed):
        leff.run(**chosen, out=tmp_path / "run", progress=Kill("measured", 2))
    before = proxy.read_text()
    proxy.write_text(before.replace("river", "brook"))
    with pytest.raises(DataError, match="proxy_digest differs"):
        leff.resume(tmp_path / "run")
    proxy.write_text(before)
    reseal(tmp_path / "run" / "environment.json", device="cuda")
    leff.resume(tmp_path / "run")
    assert "device was cuda at the start and is cpu now" in caplog.text


def test_two_processes_on_one_folder(copied):
    with RunFolder(copied).lock(), pytest.raises(RunError, match="run by another process"):
        leff.resume(copied)


# The folder


def test_what_a_run_leaves(whole, settings):
    for name, folder in whole.items():
        assert sorted(path.name for path in folder.iterdir()) == [
            ".lock",
            "checkpoints",
            "config.toml",
            "decisions.json",
            "environment.json",
            "model",
            "result.json",
            "rounds.jsonl",
            "rounds.png",
            "split.json",
        ]
        environment = json.loads((folder / "environment.json").read_text())
        split = json.loads((folder / "split.json").read_text())
        assert len(environment["split_digest"]) == 64
        assert environment["config_digest"] == config_digest(RunFolder.open(folder)[1])
        assert sum(c["examples"] for c in split) == settings[name]["data.train_examples"]
        assert len(list((folder / "checkpoints").iterdir())) == 2


def test_records_are_what_the_lines_say(whole):
    for folder in whole.values():
        lines = (folder / "rounds.jsonl").read_text().splitlines()
        records = RunFolder(folder).records()
        assert [record.to_dict() for record in records] == [unsealed(line) for line in lines]
        for record, line in zip(records, map(json.loads, lines), strict=True):
            assert record.round == line["round"] and record.loss == line.get("loss")
            assert [c.client for c in record.clients] == [
                client["client"] for client in line.get("clients", [])
            ]


def test_records(whole):
    lines = (whole["leff"] / "rounds.jsonl").read_text().splitlines()
    zero, *rounds = map(json.loads, lines)
    assert zero["round"] == 0 and zero["before"]["metrics"].keys() >= {"BLEU", "METEOR"}
    assert [record["round"] for record in rounds] == [1, 2, 3]
    for record in rounds:
        assert record["train_loss"] > 0 and record["seconds"] > 0
        assert ("metric" in record) == ("loss" in record) == (record["round"] in (2, 3))
        assert 0 <= record["entropy"] <= record["entropy_uniform"] + 1e-9
        assert len(record["layer_scores"]) == 4
        assert len(record["clients"]) == 2  # half of four
        for client in record["clients"]:
            assert client["capacity"] == (1, 2, 4, 1)[client["client"]]
            assert len(client["layers"]) == client["capacity"]
            assert client["upload_bytes"] > 0 and client["train_seconds"] > 0
        assert record["upload_bytes"] == sum(c["upload_bytes"] for c in record["clients"])
        assert all(error >= 0 for error in record["context_error"].values())
    assert any(record["context_error"] for record in rounds)


def environment(config):
    return {"config_digest": config_digest(config), "kind": "generation"}


def test_a_new_run_needs_a_folder_of_its_own(tmp_path):
    config = RunConfig()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty and is no run folder; choose another"):
        RunFolder.new(tmp_path, config)
    with pytest.raises(ConfigError, match="choose another --out"):
        RunFolder.new(tmp_path / "mine.txt", config)
    folder = tmp_path / "run"
    RunFolder.new(folder, config).start(config, environment(config), {})
    with pytest.raises(ConfigError, match=f"this very run; `leff resume {folder}` goes on"):
        RunFolder.new(folder, config)
    with pytest.raises(ConfigError, match="another configuration; choose another --out"):
        RunFolder.new(folder, RunConfig(seed=1))


def test_checkpoints_round_trip(tmp_path):
    run = RunFolder(tmp_path)
    assert run.load_checkpoint("d") is None
    for number in (1, 2, 9999, 10000):
        model = {"w": torch.full((2,), float(number))}
        server = {"holdings": {"0": ["a"]}}
        run.save_checkpoint(Checkpoint(number, model, {}, server), "d", keep=2)
    found = run.load_checkpoint("d")
    assert found.round == 10000 and found.method == {}
    assert found.server == {"holdings": {"0": ["a"]}}
    assert torch.equal(found.model["w"], torch.full((2,), 10000.0))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "round-10000",
        "round-9999",
    ]


def test_numbers_that_json_has_not(tmp_path):
    run = RunFolder(tmp_path)
    run.append(RoundRecord(0, loss=float("nan"), facts={"losses": (1.0, float("inf"))}))
    (line,) = (tmp_path / "rounds.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=raises)
    assert values["round"] == 0 and values["loss"] is None and values["losses"] == [1.0, None]
    assert run.records() == [RoundRecord(0, loss=None, facts={"losses": [1.0, None]})]
    write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=raises)["a"] is None


def test_list(whole, copied, tmp_path):
    root = tmp_path
    shutil.copytree(whole["fedavg"], root / "finished")
    (root / "foreign").mkdir()
    (root / "file").touch()
    for name, content in (("broken", "x = ["), ("other", "x = 1")):
        (root / name).mkdir()
        (root / name / "config.toml").write_text(content)
    damaged = shutil.copytree(whole["fedavg"], root / "damaged")
    (damaged / "result.json").write_text("{")
    new = RunFolder(root / "new")
    new.start(RunConfig(), environment(RunConfig()), {})
    (copied / "rounds.jsonl").write_text(
        "".join((copied / "rounds.jsonl").read_text().splitlines(keepends=True)[:2])
    )
    found = {run["run"].rpartition("/")[2]: run for run in list_runs(root)}
    assert list(found) == ["broken", "damaged", "finished", "new", "other", "run"]
    assert found["finished"]["finished"] and found["finished"]["metric"] == "BLEU"
    assert found["finished"]["rounds"] == found["finished"]["of"] == 3
    assert (found["run"]["rounds"], found["run"]["finished"]) == (1, False)
    assert (found["new"]["rounds"], found["new"]["problem"]) == (0, None)
    for name in ("broken", "other", "damaged"):
        assert "damaged" in found[name]["problem"] and not found[name]["finished"]
    assert len({tuple(run) for run in found.values()}) == 1  # same keys


def test_the_stored_configuration_is_the_runs(whole, settings):
    _, config = RunFolder.open(whole["leff"])
    assert config.training.learning_rate == 4e-3  # chosen, and kept
    given = settings["leff"] | {"training.learning_rate": 4e-3}
    assert config == api.load_config(None, given)
    assert (whole["leff"] / "config.toml").read_text() == commented_toml(config)
