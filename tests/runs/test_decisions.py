"""What clocks decided: on the disk when it is set, found again, dropped when it is done."""

import json

import pytest
import torch

from leff import files as durable
from leff.errors import CheckpointError
from leff.files import sealed, unsealed
from leff.runs.checkpoints import Checkpoint
from leff.runs.decisions import Decisions
from leff.runs.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def stored(run):
    return unsealed((run.path / "decisions.json").read_text())


def save(run, round_):
    run.save_checkpoint(Checkpoint(round_, {"w": torch.ones(1)}, {}, {}), "digest", keep=2)


def test_a_decision_is_on_the_disk_when_it_is_set_and_found_again(run):
    decisions = run.decisions(3)
    assert not decisions and not (run.path / "decisions.json").exists()
    decisions["participants"] = (0, 4)
    assert stored(run) == {"3": {"participants": [0, 4]}}
    decisions["steps"] = {"0": 12, "4": 7}
    again = run.decisions(3)
    assert dict(again) == dict(decisions) == {"participants": [0, 4], "steps": {"0": 12, "4": 7}}
    assert len(again) == 2 and "late" not in again and again.get("late") is None
    assert dict(run.decisions(2)) == {}
    del again["steps"]
    assert stored(run) == {"3": {"participants": [0, 4]}}


def test_rounds_have_decisions_of_their_own(run):
    for index in range(3):
        run.decisions(index)["steps"] = index
    assert [run.decisions(index)["steps"] for index in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("nan")], {1, 2}])
def test_what_json_has_not_is_no_decision(run, value):
    decisions = run.decisions(0)
    decisions["steps"] = 1
    with pytest.raises((ValueError, TypeError)):
        decisions["steps"] = value
    assert decisions["steps"] == run.decisions(0)["steps"] == 1


def test_what_was_decided_is_not_changed_through_the_value_that_was_set(run):
    decisions, steps = run.decisions(0), [1]
    decisions["steps"] = steps
    steps.append(2)
    assert decisions["steps"] == [1]


def test_a_kill_while_writing_leaves_the_decisions_before(run, monkeypatch):
    decisions = run.decisions(0)
    decisions["steps"] = 1

    def half(path, payload):
        path.write_bytes(payload[:5])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable, "write_synced", half)
        decisions["participants"] = [0]
    assert dict(run.decisions(0)) == {"steps": 1}


def test_rounds_that_cannot_be_run_again_are_dropped(run):
    for index in range(4):
        run.decisions(index)["steps"] = index
        save(run, index + 1)
    # checkpoints 3 and 4 are kept; from the older one, round 3 would be run again
    assert stored(run) == {"3": {"steps": 3}}


def test_a_checkpoint_without_decisions_writes_none(run):
    save(run, 1)
    assert not (run.path / "decisions.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        *("{", "", "[]", "{}", '{"0": {"steps": 2}}'),
        *(json.dumps(sealed(values)) for values in ({"0": 1}, {"x": {}})),
        json.dumps(sealed({"0": {"steps": 2}})).replace("2", "3", 1),
    ],
)
def test_a_damaged_file(run, content):
    (run.path / "decisions.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"decisions\.json is damaged .*remove it and the folder"
    ):
        run.decisions(0)
    (run.path / "decisions.json").unlink()
    assert dict(Decisions(run.path / "decisions.json", 0)) == {}
