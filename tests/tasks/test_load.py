"""Names, options, and where a task is looked for."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from leff.errors import ConfigError, DataError
from leff.tasks.load import known_tasks, load_task

E2E = {"mr": ["name[A], area[x]", "name[B]"], "ref": ["A is in x.", "B."]}


def test_unknown_task_names_the_nearest():
    with pytest.raises(ConfigError, match="'sst-2'; did you mean 'sst2'"):
        load_task("sst-2")


def test_every_name_is_known():
    glue = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    others = {"sample", "e2e", "webnlg", "mmlu", "mmlu_auxiliary", "text", "table"}
    assert set(known_tasks()) == others | glue


def test_sample_is_loaded_from_its_module_when_asked_for(monkeypatch):
    module = types.ModuleType("leff.tasks.sources.sample")
    module.load = lambda seed=0: ("sample", seed)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "leff.tasks.sources.sample", module)
    assert load_task("sample", seed=3) == ("sample", 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "e2e", "columns": {"text": "x"}}, "describe a table, not 'e2e'"),
        ({"name": "rte", "train": "x.csv"}, "for the tasks 'text' and 'table', not 'rte'"),
        ({"name": "text", "test": "x.txt"}, "name a validation file too"),
        ({"name": "table"}, "needs a train file"),
    ],
)
def test_options_that_do_not_go_together(options, said):
    with pytest.raises(ConfigError, match=said):
        load_task(**options)


def test_a_folder_without_the_task_lists_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        load_task("e2e", tmp_path)
    for part in (str(tmp_path / "e2e"), "trainset.csv", "dev.parquet", "--data-dir"):
        assert part in str(caught.value)


def test_the_variable_is_used_before_the_hub(write, tmp_path, monkeypatch, hub):
    calls = hub({})
    write("e2e/train.parquet", E2E)
    write("e2e/dev.parquet", E2E)
    monkeypatch.setenv("LEFF_DATA", str(tmp_path))
    assert len(load_task("e2e").train) == 2
    assert not calls


def test_the_hub_is_asked_if_the_variable_does_not_hold_the_task(tmp_path, monkeypatch, hub):
    columns = {"meaning_representation": E2E["mr"], "human_reference": E2E["ref"]}
    calls = hub({"train": columns, "validation": columns})
    monkeypatch.setenv("LEFF_DATA", str(tmp_path))
    assert len(load_task("e2e").train) == 2
    assert calls[0][0][0] == "tuetschek/e2e_nlg"


def test_no_network_is_said_with_a_remedy(hub, monkeypatch, tmp_path, caplog):
    hub({}, error=ConnectionError("Couldn't reach the Hub"))
    with pytest.raises(DataError, match="no folder was named"):
        load_task("rte")
    monkeypatch.setenv("LEFF_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"LEFF_DATA=.* does not hold it"):
        load_task("rte")
    place = f"{tmp_path}/glue/rte"
    assert f"{place}, " in caplog.text and "train: train.parquet or train.tsv" in caplog.text
    with pytest.raises(DataError, match=r"nyu-mll/glue \(rte\).*Couldn't reach.*--data-dir"):
        load_task("rte")


def test_a_data_set_that_ships_as_a_script_comes_from_the_converted_branch(hub):
    columns = {"meaning_representation": E2E["mr"], "human_reference": E2E["ref"]}
    error = RuntimeError("Dataset scripts are no longer supported, but found e2e_nlg.py")
    calls = hub({"train": columns, "validation": columns}, error=error)
    assert len(load_task("e2e").train) == 2
    assert calls[1][1]["revision"] == "refs/convert/parquet"


def test_importing_the_package_leaves_the_libraries_alone():
    code = (
        "import sys, leff.tasks.load, leff.tasks.encode, leff.tasks.partition;"
        "import leff.tasks.sources.table;"
        "sys.exit(bool({'datasets', 'torch', 'pandas', 'flwr_datasets'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


REAL = os.environ.get("LEFF_DATA")
COUNTS = {
    "e2e": (42061, 547, 630),
    "webnlg": (17979, 870, 1862),
    "cola": (8551, 1043, None),
    "sst2": (67349, 872, None),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, None),
    "qqp": (29859, 3000, None),
    "mnli": (9999, 9815, None),
    "rte": (2490, 277, None),
    "wnli": (635, 71, None),
    "mmlu": (1529, 1529, 14042),
    "text": (6359, 2461, 2891),
}


@pytest.mark.skipif(not REAL, reason="LEFF_DATA does not name a folder with the public data")
@pytest.mark.parametrize("name", COUNTS)
def test_real_data(name):
    task = load_task(name, Path(REAL or ""))
    sizes = (len(task.train), len(task.validation), task.test and len(task.test))
    assert sizes == COUNTS[name]
    assert set(task.attributes) <= set(task.train.columns)
    if name == "e2e":
        assert sum(len(row) for row in task.validation["references"]) == 4672
        assert task.test and sum(len(row) for row in task.test["references"]) == 4693
        assert sorted(set(task.train["familyFriendly"])) == ["no", "none", "yes"]
    if name == "mnli":
        assert [task.validation["label"][:].count(i) for i in range(3)] == [3479, 3123, 3213]


def test_a_task_whose_examples_are_on_devices(tmp_path):
    """Kind and classes come from the user; a validation file is read by the same rules."""
    task = load_task("table", kind="classification", labels=["no", " yes"])
    assert task.labels == ("no", "yes") and task.kind == "classification"
    assert len(task.train) == len(task.validation) == 0 and task.test is None
    (tmp_path / "held.jsonl").write_text('{"text": "a", "label": "yes"}\n')
    held = load_task(
        "table", validation=tmp_path / "held.jsonl", kind="classification", labels=["no", "yes"]
    )
    assert held.validation[0] == {"text": "a", "label": 1} and len(held.train) == 0
    for kind in ("generation", "regression", "text"):
        assert len(load_task("table", kind=kind).train) == 0
    (tmp_path / "held.txt").write_text("one\ntwo\n")
    assert load_task("text", validation=tmp_path / "held.txt").validation["text"] == ["one", "two"]


def test_nothing_need_be_held_out(tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "t{i}"}}\n' for i in range(20)))
    (tmp_path / "t.txt").write_text("".join(f"t{i}\n" for i in range(20)))
    for name, file in (("table", "t.jsonl"), ("text", "t.txt")):
        task = load_task(name, train=tmp_path / file, hold_out=False)
        assert len(task.train) == 20 and len(task.validation) == 0 and task.test is None
        assert len(load_task(name, train=tmp_path / file).train) == 18


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "classification"}, "name them in data.labels"),
        ({"kind": "text", "labels": ["a", "b"]}, "the kind is 'text'"),
        ({"labels": ["a"]}, "has only 'a'"),
        ({"labels": ["a", " a"]}, "'a' twice"),
        ({"labels": ["a", " "]}, "an empty name"),
    ],
)
def test_classes_that_name_no_task(options, said):
    with pytest.raises(ConfigError, match=said):
        load_task("table", **options)


def test_classes_that_are_given_have_their_order(tmp_path):
    """Given names need not all occur, and a label that is none of them is refused by name."""
    rows = [{"text": f"t{i}", "label": str(i % 2)} for i in range(20)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = load_task("table", train=tmp_path / "t.jsonl", labels=["2", "1", "0"])
    assert task.labels == ("2", "1", "0") and set(task.train["label"]) == {1, 2}
    with pytest.raises(DataError, match=r"t.jsonl, line 1: label '0' is none of the classes: 1, 2"):
        load_task("table", train=tmp_path / "t.jsonl", labels=["1", "2"])
