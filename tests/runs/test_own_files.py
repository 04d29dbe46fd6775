"""Runs on the user's own files: a client a file, small data, a column with gaps."""

import json

import pytest
from tiny_runs import Killed, options, outcome, raises, save_tiny, write_table

import leff
from leff.errors import ConfigError, DataError
from leff.report.live import _heading
from leff.runs.config import load_config
from leff.runs.federation import Federation
from leff.runs.folder import RunFolder
from leff.runs.prepare import prepare
from leff.sweeps.keys import run_key

pytestmark = pytest.mark.usefixtures("quick_runs")
SITES = {"berlin": 30, "paris": 20, "rome": 6}


@pytest.fixture
def sites(tmp_path):
    for name, rows in SITES.items():
        path = write_table(tmp_path / f"{name}.jsonl", "text", rows)
        path.write_text(path.read_text().replace("walk ", f"{name} "))
    return tmp_path / "*.jsonl"


def settings(model, train, drop=("clients.count", "clients.min_examples"), **changes):
    given = options(model, data__task="table", data__train=train, proxy__task="wnli", **changes)
    given |= {"training.rounds": 2, "evaluation.gap_clients": 0, "method.name": "fedavg"}
    return {key: value for key, value in given.items() if key not in drop}


def prepared(tmp_path, values):
    return prepare(load_config(None, values), RunFolder(tmp_path / "run"))


def test_each_file_is_a_client_also_after_a_kill(sites, tmp_path, tiny_gpt2, monkeypatch, caplog):
    values = settings(tiny_gpt2, str(sites), clients__partition="dirichlet")
    whole = leff.run(**values, out=tmp_path / "whole")
    assert "clients.partition = 'dirichlet' has no effect: each of the 3 files" in caplog.text
    split = json.loads((whole.folder / "split.json").read_text())
    assert sum(record["examples"] for record in split) == 40  # data.train_examples
    assert [list(record["values"]) for record in split] == [[name] for name in SITES]
    with monkeypatch.context() as patch:
        patch.setattr(Federation, "_finish", raises)
        with pytest.raises(Killed):
            leff.run(**values, out=tmp_path / "killed")
    config = RunFolder.open(tmp_path / "killed")[1].clients
    assert (config.partition, config.count, config.min_examples) == ("files", 3, 1)
    assert outcome(leff.resume(tmp_path / "killed").folder) == outcome(whole.folder)


def test_the_number_of_clients_is_that_of_the_files(sites, tmp_path, tiny_gpt2, caplog):
    values = settings(tiny_gpt2, [str(sites)], **{"data__train_examples": "all"})
    federation = prepared(tmp_path, values)
    assert federation.config.clients.count == 3 and federation.clients.split.moved == 0
    assert [len(rows) for rows in federation.clients.split.indices] == [27, 18, 5]
    assert "has no effect" not in caplog.text
    assert "3 clients, 5 to 27 examples each, a file each;" in _heading(federation)
    with pytest.raises(ConfigError, match=r"clients.count = 4, but data.train has 3 files, .*out"):
        prepared(tmp_path, {**values, "clients.count": 4})
    fleet = tmp_path / "fleet.toml"
    fleet.write_text('[phone]\ncount = 2\nmemory = "1GB"\nspeed = "1GFLOP/s"\n'
                     'down = "1Mbit/s"\nup = "1Mbit/s"\n')  # fmt: skip
    of_fleet = {k: v for k, v in values.items() if k != "clients.layers"}
    with pytest.raises(ConfigError, match=r"data.train has 3 files, .*the fleet's classes"):
        prepared(tmp_path, {**of_fleet, "clients.fleet": str(fleet)})
    with pytest.raises(DataError, match=r"'rome' has 5 examples .* clients.min_examples = 6"):
        prepared(tmp_path, {**values, "clients.min_examples": 6})


def test_files_need_files(tmp_path, tiny_gpt2):
    values = settings(tiny_gpt2, "x*.csv", clients__partition="files")
    with pytest.raises(DataError, match="no file fits the pattern"):
        prepared(tmp_path, values)
    with pytest.raises(ConfigError, match=r"clients.partition = 'files' needs data.train"):
        prepared(tmp_path, {"clients.partition": "files"})


def test_few_rows_need_no_options(tmp_path, caplog):
    caplog.set_level("INFO")
    model = save_tiny(tmp_path / "model", "classification")
    train = str(write_table(tmp_path / "t.jsonl", "classification", rows=120))
    values = settings(model, train, clients__partition="iid", data__train_examples="all")
    federation = prepared(tmp_path, values)
    assert federation.config.clients.min_examples == 6
    assert "clients.min_examples is 6, not 16: there are 108 examples for 8 clients" in caplog.text


def test_a_row_without_the_clients_column(tmp_path, tiny_gpt2):
    path = write_table(tmp_path / "t.jsonl", "text")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[7]["town"]
    path.write_text("\n".join(map(json.dumps, rows)))
    values = settings(tiny_gpt2, str(path), clients__partition="column", clients__by="town")
    with pytest.raises(DataError, match=r"t.jsonl, line 8: no value in .*clients.by = 'town' cann"):
        prepared(tmp_path, values)
    with pytest.raises(ConfigError, match=r"table has none \(.*t.jsonl, line 8: no value"):
        prepared(tmp_path, {**values, "clients.by": ""})


def test_a_list_of_files_has_a_key():
    one, two = ({"data.train": [f"{top}/sites/a.csv", f"{top}/b.csv"]} for top in ("/x", "/y"))
    assert run_key(load_config(None, one)) != run_key(load_config(None, two))
    same = [{"data.train": [f"{top}/sites/a.csv"]} for top in ("/x", "/y")]
    assert len({run_key(load_config(None, values)) for values in same}) == 1
