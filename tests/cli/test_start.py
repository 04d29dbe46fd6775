"""`leff new` and `leff examples`: files that run at once, and what is refused."""

import json

import pytest

import leff
from leff.cli.start import EXAMPLES
from leff.runs.config import load_config
from leff.runs.folder import RunFolder

SMALL = {"training.rounds": 1, "evaluation.final_examples": 2, "evaluation.examples": 2}


@pytest.mark.usefixtures("quick_runs")
def test_what_is_new_runs_at_once(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = cli("new", "walks")
    assert status == 0 and "leff run config.toml --out runs/first" in printed
    names = {path.name for path in (tmp_path / "walks").iterdir()}
    assert names == {"config.toml", "fleet.toml", "walks.csv", "public.txt"}
    monkeypatch.chdir(tmp_path / "walks")
    run = leff.run("config.toml", out="runs/first", **SMALL, **{"proxy.examples": 16})
    (first, last) = run.records()
    assert last.loss < first.loss
    trained = {len(client.layers) for client in last.clients}
    assert len(last.clients) == 8 and len(trained) > 1  # the classes of devices differ
    assert cli("plan", "sample", "--fleet", "fleet.toml")[0] == 0


@pytest.mark.usefixtures("quick_runs")
def test_the_chat_example_runs(cli, tmp_path, monkeypatch, tiny_gpt2):
    monkeypatch.chdir(tmp_path)
    assert cli("examples", "chat")[0] == 0
    monkeypatch.chdir(tmp_path / "chat")
    tiny = {"data.max_length": 48, "evaluation.max_new_tokens": 4, "clients.layers": [2]}
    tiny |= {"data.train_examples": 40, "proxy.examples": 8}
    run = leff.run("chat.toml", out="runs/a", model=str(tiny_gpt2), **SMALL, **tiny)
    assert run.result["metric"] == "perplexity" and len(run.records()[1].clients) == 4
    values = [next(iter(client["values"])) for client in RunFolder(run.folder).split()]
    assert sorted(values) == ["Fern & Pot", "Harbour Bikes", "Northlight Lamps", "Paper Lane"]
    assert all("type: " in text["references"][0] for text in run.result["after"]["texts"])


def test_a_place_that_is_taken_is_refused(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walks").mkdir()
    assert "walks exists already" in cli("new", "walks")[2]
    assert "there is no folder nowhere" in cli("new", "nowhere/walks")[2]
    assert cli("new", "other", "--json")[0] == 0
    (tmp_path / "e2e.toml").touch()
    status, _, said = cli("examples", "sst2.toml", "e2e.toml")
    assert status == 2 and "e2e.toml exists already" in said
    assert not (tmp_path / "sst2.toml").exists()  # nothing is copied by halves


def test_examples_are_listed_and_copied(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, printed, _ = cli("examples")
    about = dict(line.split(None, 1) for line in printed.splitlines())
    others = {"new", "README.md", "__pycache__"}
    assert about.keys() == {path.name for path in EXAMPLES.iterdir()} - others
    assert about["table"].startswith("A table of your own: three clubs")
    assert about["first_run.ipynb"].startswith("A first run: train, look")
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"]({name}" in listed for name in about)
    assert about["fedprox.py"].startswith("A method of one's own: FedProx")
    status, printed, _ = cli("examples", "e2e.toml", "network", "--json")
    assert status == 0 and json.loads(printed) == ["e2e.toml", "network"]
    assert load_config(tmp_path / "e2e.toml").data.task == "e2e"
    assert (tmp_path / "network" / "compose.yaml").exists()
    status, _, said = cli("examples", "e2e.tml")
    assert status == 2 and "there is no example e2e.tml; did you mean 'e2e.toml'?" in said
