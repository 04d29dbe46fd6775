"""Records in experiment trackers: what is sent, what a resumed run sends, and real trackers."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_records import client_record as client
from made_up_records import round_record

import leff
from leff.errors import ConfigError, RunError, UsageError
from leff.files import read_json
from leff.report import trackers
from leff.report.tracking import Tracking, figures, flat, tables
from leff.runs.options import RunConfig

RESULT = {"before": {"metrics": {"BLEU": 0.1}}, "after": {"metrics": {"BLEU": 0.5, "CIDEr": None}}}
FEDERATION = SimpleNamespace(config=RunConfig(), metric="BLEU")


def record(number):
    return round_record(
        number,
        loss=1.5,
        metric=0.25,
        layer_scores=[0.5, 0.1, 0.2],
        context_error={"0-1": 0.03},
        clients=(
            client(0, [1], norms=(4.0,)),
            client(1, [0, 1], device="lap|top\n", norms=(2.0, 6.0)),
            client(2, [2], "lost"),
        ),
    )


class Noted:
    """A tracker that keeps what it gets; it fails at the rounds in `broken`."""

    opened, sent, broken = [], [], set()

    def __init__(self, run):
        self.id = run.known or "new"
        self.opened.append((run.name, run.known, run.config["training.rounds"]))

    def log(self, entry):
        print("a word of the tracker's")
        if entry.step in self.broken:
            raise OSError("no network")
        self.sent.append((entry.step, entry.values, entry.tables, list(entry.layers)))

    def close(self):
        self.sent.append("closed")


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(Noted, "opened", [])
    monkeypatch.setattr(Noted, "sent", [])
    monkeypatch.setattr(Noted, "broken", set())
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Noted)
    return Noted


@pytest.fixture
def folder(tmp_path):
    return SimpleNamespace(path=tmp_path)


def test_what_a_record_gives():
    assert figures(record(2), "BLEU") == {"loss": 1.5, "BLEU": 0.25, "context_error/0-1": 0.03}
    made = tables(record(2))
    assert [row["layers"] for row in made["clients"]] == ["1", "0, 1", "2"]
    assert [row["failure"] for row in made["clients"]] == ["", "", "lost"]
    assert made["layers"] == [
        {"layer": 0, "clients": 1, "examples": 10, "norm": 2.0, "importance": 0.5},
        {"layer": 1, "clients": 2, "examples": 20, "norm": 5.0, "importance": 0.1},
        {"layer": 2, "clients": 0, "examples": 0, "norm": None, "importance": 0.2},
    ]
    assert tables(round_record(0, loss=2.0)) == {}
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": "x"}) == {"a.b": 1, "a.c.d": [2], "e": "x"}


def test_every_record_is_sent_once_also_after_a_kill(noted, folder, capsys):
    with Tracking("wandb", folder) as tracking:
        tracking.started(FEDERATION)
        for number in (0, 1):
            tracking.measured(record(number))
    with Tracking("wandb", folder) as tracking:  # as after a kill: all records come again
        tracking.started(FEDERATION)
        for number in (0, 1, 2):
            tracking.measured(record(number))
        tracking.finished(RESULT)
        tracking.finished(RESULT)
    assert [known for _, known, _ in noted.opened] == [None, "new"]
    steps = [each if each == "closed" else each[0] for each in noted.sent]
    assert steps == [0, 1, "closed", 2, 2, "closed"]
    assert noted.sent[3][3] == [1, 0, 1]
    assert noted.sent[4][1] == {"before/BLEU": 0.1, "after/BLEU": 0.5}
    printed = capsys.readouterr()
    assert printed.out == "" and "a word of the tracker's" in printed.err


def test_a_tracker_that_fails_costs_a_warning_and_gets_the_rest_later(noted, folder, caplog):
    caplog.set_level(logging.WARNING, logger="leff")
    noted.broken.add(1)
    with Tracking("wandb", folder) as tracking:
        tracking.started(FEDERATION)
        for number in (0, 1, 2):
            tracking.measured(record(number))
        tracking.finished(RESULT)
    assert [each[0] for each in noted.sent[:-1]] == [0]
    assert "wandb did not take round 1 (OSError('no network'))" in caplog.messages[0]
    assert f"`leff resume {folder.path} --track wandb` sends the rest" in caplog.messages[-1]
    noted.broken.clear()
    with Tracking("wandb", folder) as tracking:
        tracking.started(FEDERATION)
        for number in (0, 1, 2):
            tracking.measured(record(number))
        tracking.finished(RESULT)
    assert [each[0] for each in noted.sent[2:-1]] == [1, 2, 2]


def test_a_tracker_that_cannot_start_is_an_error(folder, monkeypatch):
    def refuses(*_):
        raise ValueError("no API key\nwas found")

    monkeypatch.setitem(trackers.TRACKERS, "wandb", refuses)
    with (
        Tracking("wandb", folder) as tracking,
        pytest.raises(RunError, match=r"wandb did not start: ValueError\('no API key"),
    ):
        tracking.started(FEDERATION)


def test_an_unknown_or_missing_tracker_is_refused_before_there_is_a_run(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"no tracker 'tensorbord'; did you mean 'tensorboard'"):
        leff.run(out=tmp_path / "run", track="tensorbord")
    monkeypatch.setattr("leff.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package mlflow; pip install 'leff\[mlflow\]'"):
        leff.run(out=tmp_path / "run", track="mlflow")
    assert not (tmp_path / "run").exists()


SENDING = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {tests!r})
from made_up_records import client_record as client, round_record
from leff.report.tracking import Tracking
from leff.runs.options import RunConfig
folder = Path({folder!r})
for number in range(3):  # each goes on with the run of the one before
    with Tracking({tracker!r}, SimpleNamespace(path=folder)) as tracking:
        tracking.started(SimpleNamespace(config=RunConfig(), metric="BLEU"))
        clients = (client(0, [1]), client(1, [0, 1], device="lap|top")) if number else ()
        tracking.measured(round_record(number, loss=2.0 - number, metric=0.5, clients=clients))
        if number == 2:
            tracking.finished({result!r})
"""
READING = {
    "tensorboard": """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(str(folder / "tensorboard")); events.Reload()
losses = {each.step: each.value for each in events.Scalars("loss")}
after = events.Scalars("after/BLEU")[-1].value
(table,) = [e for e in events.Tensors("layers/text_summary") if e.step == 2]
text = table.tensor_proto.string_val[0].decode()
clients = events.Tensors("clients/text_summary")[-1].tensor_proto.string_val[0].decode()
assert "lap\\\\|top" in clients
trained = events.Histograms("layers trained")[-1].histogram_value
assert trained.num == 3 and trained.sum == 2
config = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
assert "training.rounds" in config.decode()
layers = 2 * ("| 1 | 2 | 20 |" in text)
""",
    "trackio": """
import sqlite3, trackio
(run,) = trackio.Api().runs("leff")
assert run.config["training.rounds"] == 8
stored = sqlite3.connect(folder.parent / "trackio" / "leff.db")
rows = stored.execute("SELECT step, metrics FROM metrics")
rows = [(step, json.loads(text)) for step, text in rows]
losses = {step: row["loss"] for step, row in rows if "loss" in row}
(after,) = [row["after/BLEU"] for _, row in rows if "after/BLEU" in row]
layers = len([row["layers"] for step, row in rows if step == 2 and "layers" in row][0]["_value"])
""",
    "wandb": """
import struct
from wandb.proto import wandb_internal_pb2 as pb
def records(path):  # LevelDB's log format: blocks of 32 kB, a record in one or more parts
    data, offset, whole = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, size, part = struct.unpack_from("<IHB", data, offset)
        whole += data[offset + 7 : offset + 7 + size]
        offset += 7 + size
        if part in (1, 4):  # the last part, or the only one
            yield pb.Record.FromString(whole)
            whole = b""
ids, losses, config = set(), {}, {}
for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
    for record in records(path):
        ids |= {record.run.run_id} - {""}
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        items = record.history.item
        values = {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}
        if "loss" in values:
            losses[values["_step"]], layers = values["loss"], values.get("layers.nrows")
        after = values.get("after/BLEU", 0)
        if after:
            found = after
after = found
assert len(ids) == 1 and config["training.rounds"] == 8
""",
    "mlflow": """
import mlflow
client = mlflow.MlflowClient()
experiment = client.get_experiment_by_name("leff").experiment_id
(run,) = client.search_runs([experiment])
losses = {each.step: each.value for each in client.get_metric_history(run.info.run_id, "loss")}
after = run.data.metrics["after/BLEU"]
assert run.data.params["training.rounds"] == "8" and run.info.status == "FINISHED"
table = client.load_table(experiment, "layers.json", [run.info.run_id])
assert list(table["round"]) == [1, 1, 2, 2]
layers = len(table[table["round"] == 2])
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("tracker", READING)
def test_a_real_tracker_gives_back_what_it_got(tracker, tmp_path):
    pytest.importorskip(tracker, reason=f"{tracker} is not installed")
    run = tmp_path / "run"
    run.mkdir()
    own = {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(run),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
    }
    sending = SENDING.format(
        tests=str(Path(__file__).parents[1]), folder=str(run), tracker=tracker,
        result={when: {"metrics": {"BLEU": 0.25}} for when in ("before", "after")},
    )  # fmt: skip
    reading = "import json\nfrom pathlib import Path\n"
    reading += f"folder = Path({str(run)!r})\n{READING[tracker]}"
    reading += "print(json.dumps([sorted(losses.items()), after, layers]))\n"
    said = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path, env=os.environ | own, capture_output=True, text=True,
        )
        for script in (sending, reading)
    ]  # fmt: skip
    assert [each.returncode for each in said] == [0, 0], said[0].stderr + said[1].stderr
    assert said[0].stdout == "" and "WARNING" not in said[0].stderr
    losses, after, layers = json.loads(said[1].stdout.splitlines()[-1])
    assert losses == [[0, 2.0], [1, 1.0], [2, 0.0]] and after == 0.25 and layers == 2
    assert read_json(run / "tracked.json", "")[tracker]["finished"]
