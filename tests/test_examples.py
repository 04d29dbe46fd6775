"""The examples: each runs as its text says, in a small size where its own takes minutes.

`fedprox.py` runs in `test_documents.py`, as do the commands of the examples' READMEs; the chat
example and the listing of all are in `cli/test_start.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import leff
from leff.cli.start import EXAMPLES

NOTEBOOK = EXAMPLES / "first_run.ipynb"
MOST_BYTES = 200_000
SMALL = {
    "training.rounds": 1,
    "evaluation.examples": 4,
    "evaluation.final_examples": 2,
    "evaluation.gap_clients": 0,
    "engine.workers": 1,
}


def outputs(notebook):
    """Return what the code cells of a notebook wrote, as text, in their order."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        "".join(each.get("text", "") or each["data"]["text/plain"] for each in cell.outputs)
        for cell in cells
    ]


def check(notebook):
    """Check what the notebook shows: LEFF learns, sends less than FedAvg, and fits devices."""
    first, picture, records, compared, lines, texts, plan = outputs(notebook)
    before, after = eval(first.splitlines()[-1])
    assert after > 0.3 > 0.1 > before
    assert [line.split("  ")[0] for line in records.splitlines()] == [
        f"round {i}" for i in range(4)
    ]
    rows = {line.split("  ")[0]: line.split()[-2:] for line in compared.splitlines()}
    assert rows["method.name"] == ["leff", "fedavg"]
    assert int(rows["upload_bytes"][0]) < int(rows["upload_bytes"][1])
    assert all("image/png" in cell.outputs[0].data for cell in _pictures(notebook))
    assert len(texts.splitlines()) == 2
    assert [line.split(":")[0] for line in plan.splitlines()] == ["6 x phone", "2 x laptop"]
    assert "Image" in picture and "Figure" in lines


def _pictures(notebook):
    names = ("Image(run.picture", "plt.show()")
    return [cell for cell in notebook.cells if any(name in cell.source for name in names)]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that start a kernel
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # without Java, which takes seconds
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # tqdm has advice on its bars
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell |= {"outputs": []} if cell.cell_type == "code" else {}
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    check(notebook)
    assert (tmp_path / "runs" / "leff" / "result.json").exists()


def test_the_notebook_is_committed_as_it_ran():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    text = json.dumps([outputs(notebook), [cell.source for cell in cells]])
    assert "Warning" not in text and "site-packages" not in text


@pytest.fixture
def copied(cli, tmp_path, monkeypatch):
    """Return what copies an example and makes it the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")

    def copy(name):
        assert cli("examples", name)[0] == 0
        monkeypatch.chdir(tmp_path / name)

    return copy


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_a_table_of_your_own(copied):
    copied("table")
    run = leff.run("table.toml", out="runs/clubs", **SMALL, **{"proxy.examples": 16})
    first, last = run.records()
    assert last.loss < first.loss
    assert [len(client.layers) for client in last.clients] == [1, 2, 4]
    split = json.loads((run.folder / "split.json").read_text())
    assert all(club in json.dumps(split) for club in ("larkmoor", "mossdale", "saltby"))


@pytest.mark.slow
def test_a_fleet_is_planned_as_its_readme_says(copied):
    copied("fleet")
    classes = leff.plan("sample", fleet="fleet.toml", time="10s")["classes"]
    assert "least that would do" in classes["watch"]["problem"]
    assert (classes["phone"]["steps"], classes["phone"]["all_steps"]) == (3, 10)
    assert classes["laptop"]["layers"] == classes["desktop"]["layers"] == 8


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_a_fleet(copied):
    copied("fleet")
    run = leff.run("run.toml", out="runs/fleet", **SMALL, train_examples=256)
    (record,) = run.records()[1:]
    assert list(record.sat_out) == ["0"]  # the watch
    devices = {client.device: client for client in record.clients}
    assert devices.keys() == {"phone", "laptop", "desktop"}
    assert len(devices["phone"].layers) < len(devices["laptop"].layers) == 8
    assert record.round_seconds_simulated <= 10


@pytest.mark.slow
def test_three_devices(copied):
    copied("network")
    small = [part for key in SMALL for part in ("--set", f"{key}={SMALL[key]}")]
    done = subprocess.run(
        [sys.executable, "three_devices.py", *small], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = Path("runs").glob("network-demo-*/run")
    clients = json.loads((run / "rounds.jsonl").read_text().splitlines()[1])["clients"]
    assert [len(client["layers"]) for client in clients] == [1, 2, 4]
    assert "All processes end." in done.stdout
