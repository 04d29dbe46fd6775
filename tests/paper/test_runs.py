"""A made-up table, run for real: what is written, shared, cut, resumed and refused."""

import io
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from rich.console import Console
from tiny_runs import Killed, quicken, raises

from leff.errors import ConfigError, DataError, ModelError
from leff.paper.cells import Selection
from leff.paper.predict import Forecast
from leff.paper.results import ResultStore
from leff.paper.study import Places, Study
from leff.paper.tables import print_table
from leff.runs.config import load_config
from leff.runs.folder import RunFolder
from leff.sweeps import workshop

from made_up import write_experiments  # isort: skip

pytestmark = pytest.mark.usefixtures("quick_runs")

ONE = Selection(rows=("LEFF",), seeds=(0,))


@pytest.fixture
def places(tmp_path):
    folder = write_experiments(tmp_path / "experiments")
    return Places(folder, tmp_path / "results", tmp_path / "runs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folders of table 1, done with one seed."""
    root = tmp_path_factory.mktemp("paper")
    places = Places(write_experiments(root / "experiments"), root / "results", root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        assert Study.open("table1", Selection(seeds=(0,)), places).fill() == {}
    return root


@pytest.fixture
def copied(finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / "copy")
    return Places(root / "experiments", root / "results", root / "runs")


def flags(places):
    return [
        *("--experiments", places.experiments),
        *("--results", places.results),
        *("--runs", places.runs),
    ]


def test_a_result_file_says_what_was_run_where_and_how_it_came_out(copied):
    study = Study.open("table1", ONE, copied)
    (result,) = study.results.values()
    (run,) = study.runs
    assert result["key"] == run.key
    assert result["command"] == ("leff table 1 --size mini --row LEFF --column Walks --seed 0")
    assert result["options"]["method"]["name"] == "leff" and "engine" not in result["options"]
    assert result["after"]["metrics"].keys() >= {"BLEU", "NIST", "CIDEr"}
    assert [record["round"] for record in result["rounds"]] == [0, 1]
    assert result["wall_seconds"] > 0 and result["round_seconds"] > 0
    assert result["hardware"]["cores"] >= 1 and result["versions"]["torch"]
    assert result["upload_bytes"] > 0 and result["client_bytes"] > 0
    path = study.store.path(run.key)
    assert "texts" not in result["after"] and path.stat().st_size < 10_000


def test_what_is_heavy_is_removed_and_the_rest_of_the_run_kept(copied):
    (run,) = Study.open("table1", ONE, copied).runs
    names = {path.name for path in (copied.runs / run.key).iterdir()}
    assert names >= {"config.toml", "environment.json", "rounds.jsonl", "result.json"}
    assert not names & {"model", "checkpoints", "parts", "updates"}


def test_nothing_is_run_twice_and_figures_share_the_runs(copied, monkeypatch):
    monkeypatch.setattr(workshop, "in_this_process", raises)
    study = Study.open("table1", ONE, copied)
    assert study.missing == [] and study.fill() == {}
    losses = Study.open("figure8", ONE, copied).values()
    assert [(value.point, value.missing) for value in losses] == [("0", None), ("1", None)]
    figure = Study.open("figure4", Selection(), copied)  # α 0.5 is the default
    assert [run.point for run in figure.missing] == ["5", "5"]


def test_a_run_that_another_process_has_made_meanwhile_is_not_run_again(copied, monkeypatch):
    monkeypatch.setattr(workshop, "in_this_process", raises)
    study, said = Study.open("table1", ONE, copied), []
    path = study.store.path(study.runs[0].key)
    made, study.results = path.read_bytes(), {}  # as if it had not been there at first
    assert len(study.missing) == 1 and study.fill(say=said.append) == {}
    assert said == ["1 of 1: LEFF, Walks, seed 0, done by another process"]
    assert study.missing == [] and path.read_bytes() == made


def test_what_is_complete_is_shown_without_its_model(copied, cli, monkeypatch):
    def nowhere(*_, **__):
        raise ModelError("not to be had")

    monkeypatch.setattr("leff.paper.predict.planned", nowhere)
    status, printed, _ = cli("table", 1, "--seed", 0, *flags(copied))
    assert status == 0 and "(1)" in printed
    status, _, said = cli("table", 1, *flags(copied))  # seed 1 is to be run
    assert status == 2 and "not to be had" in said


def test_what_was_kept_stays_when_the_table_is_shown_again(copied):
    study = Study.open("table1", ONE, copied)
    (kept := copied.runs / study.runs[0].key / "model").mkdir()
    assert study.fill() == {} and kept.exists()


def test_a_lost_result_file_comes_from_the_finished_run(copied, monkeypatch):
    study = Study.open("table1", ONE, copied)
    path = study.store.path(study.runs[0].key)
    before = json.loads(path.read_text())
    path.unlink()
    monkeypatch.setattr("leff.api.run", raises)
    assert Study.open("table1", ONE, copied).fill() == {}
    assert json.loads(path.read_text())["after"] == before["after"]


def test_a_run_that_was_cut_goes_on_to_the_same_result(finished, places, monkeypatch):
    study = Study.open("table1", ONE, places)
    with monkeypatch.context() as patch:
        patch.setattr("leff.runs.federation.save_model", raises)
        with pytest.raises(Killed):
            study.fill()
    assert study.results == {} and not places.results.exists()
    assert (places.runs / study.runs[0].key / "checkpoints").exists()
    said = []
    assert study.fill(say=said.append) == {} and "goes on in" in said[0]
    (result,) = study.results.values()
    whole = Study.open("table1", ONE, Places(*(finished / n for n in NAMES))).results
    assert result["after"] == whole[result["key"]]["after"]
    assert result["wall_seconds"] is None  # it would be too short


NAMES = ("experiments", "results", "runs")


def test_a_failing_run_does_not_stop_the_others(places, cli, monkeypatch):
    real = workshop.in_this_process

    def some(run, folder):
        if run.row == "FedAvg":
            raise RuntimeError("it broke")
        real(run, folder)

    monkeypatch.setattr(workshop, "in_this_process", some)
    status, printed, said = cli("table", 1, "--seed", 0, "--json", *flags(places))
    cells = {(cell["row"], cell["column"]): cell for cell in json.loads(printed)}
    assert status == 1 and "1 run failed (it broke); the same command tries it again" in said
    assert cells["FedAvg", "BLEU"]["missing"] == "it broke (seed 0)"
    assert cells["LEFF", "BLEU"]["mean"] is not None and cells["LEFF", "BLEU"]["missing"] is None


def test_a_method_that_the_model_does_not_allow_is_said_and_not_run(places, cli, monkeypatch):
    def planned(model, method, *_, **__):
        raise ConfigError("no biases")

    monkeypatch.setattr("leff.paper.predict.planned", planned)
    monkeypatch.setattr(workshop, "in_this_process", raises)
    status, printed, _ = cli("table", 1, "--json", *flags(places))
    assert status == 0
    reasons = {cell["missing"] for cell in json.loads(printed) if cell["metric"] != "mean"}
    assert reasons == {"cannot be: no biases (seeds 0, 1)"}
    status, printed, _ = cli("table", 1, "--dry-run", "--json", *flags(places))
    assert {row["seconds"] for row in json.loads(printed)} == {None}
    status, printed, _ = cli("table", 1, "--dry-run", *flags(places))
    assert status == 0 and printed.count("cannot be") == 4 + 1 and "0 of 4 runs to do" in printed


def test_an_interrupt_says_how_to_go_on(places, cli, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workshop, "in_this_process", interrupt)
    status, printed, said = cli("table", 1, *flags(places))
    assert (status, printed) == (1, "") and "interrupted; the same command goes on" in said


def test_an_edited_result_is_refused(copied):
    study = Study.open("table1", ONE, copied)
    path = study.store.path(study.runs[0].key)
    values = json.loads(path.read_text())
    values["after"]["metrics"]["BLEU"] = 0.99
    path.write_text(json.dumps(values))
    with pytest.raises(
        DataError, match=f"{path} is no result file, or was edited.*delete it and run again"
    ):
        Study.open("table1", ONE, copied)
    path.write_text("{}")
    with pytest.raises(DataError, match="is no result file, or was edited"):
        Study.open("table1", ONE, copied)


def test_the_result_of_another_run_is_refused(copied):
    study = Study.open("table1", Selection(seeds=(0,)), copied)
    mine, other = (study.store.path(run.key) for run in study.runs)
    shutil.copy(other, mine)
    with pytest.raises(DataError, match=f"{mine} is the result of another run, {other.stem}"):
        Study.open("table1", Selection(seeds=(0,)), copied)
    other.write_text("{}")
    with pytest.raises(DataError, match=rf"{mine} is(.|\n)*{other} is no result file"):
        Study.open("table1", Selection(seeds=(0,)), copied)


def test_a_result_from_before_a_default_changed_is_refused(copied):
    study = Study.open("table1", ONE, copied)
    (run,) = study.runs
    (result,) = study.results.values()
    options = result["options"]
    options["method"]["relaxation"] = 1.0  # as if the default had been that
    options["method"]["forgotten"] = 1  # an option that is gone, or still to come
    ResultStore(study.store.folder).write(run, {"options": options})
    with pytest.raises(DataError, match=r"method.relaxation was 1.0 and is 2.0 now"):
        Study.open("table1", ONE, copied)


def test_a_run_folder_with_other_options_is_refused(places, monkeypatch):
    study = Study.open("table1", ONE, places)
    (run,) = study.runs
    folder = places.runs / run.key
    folder.mkdir(parents=True)
    from leff.runs.toml import commented_toml

    (folder / "config.toml").write_text(
        commented_toml(load_config(None, {"model.name": "another"}))
    )
    failures = study.fill()
    assert "was started with other options than LEFF, Walks, seed 0" in failures[run.key]


def test_data_that_is_missing_is_named_before_any_run(places, cli, tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "in_this_process", raises)
    write_experiments(places.experiments, proxy__task="webnlg")
    (tmp_path / "empty").mkdir()
    arguments = ["--data-dir", tmp_path / "empty", *flags(places)]
    status, printed, said = cli("table", 1, *arguments)
    assert (status, printed) == (2, "")
    assert "LEFF, Walks: " in said and f"{tmp_path}/empty does not hold the task 'webnlg'" in said
    assert "leave the cell out with --row or --column" in said


def test_dry_run_lists_every_run_with_seconds_and_bytes(copied, cli):
    status, printed, _ = cli("table", 1, "--dry-run", "--json", *flags(copied))
    rows = json.loads(printed)
    assert status == 0 and len(rows) == 4
    names = {"key", "row", "column", "seed", "model", "method", "done", "seconds", "bytes"}
    assert all(row.keys() == names | {"basis", "command"} for row in rows)
    assert all(row["seconds"] > 0 and row["bytes"] > 1e6 for row in rows)
    assert {(row["row"], row["seed"]): row["done"] for row in rows} == {
        ("FedAvg", 0): True,
        ("LEFF", 0): True,
        ("FedAvg", 1): False,
        ("LEFF", 1): False,
    }
    assert rows[-1]["basis"] == "1 finished run of leff on this task with this model"
    status, printed, _ = cli("table", 1, "--dry-run", *flags(copied))
    assert status == 0 and "2 of 4 runs to do" in printed


def test_seconds_are_of_this_method_on_this_task_then_of_the_method_then_of_the_model(copied):
    study = Study.open("table1", Selection(seeds=(0,)), copied)
    results = {result["method"]: result for result in study.results.values()}
    (run,) = (run for run in study.runs if run.row == "LEFF")
    same = results["leff"] | {"wall_seconds": 7.0}
    own = results["leff"] | {"wall_seconds": 20.0, "task": "e2e"}
    other = results["fedavg"] | {"wall_seconds": 300.0}
    elsewhere = other | {"hardware": {}, "wall_seconds": 9.0}
    for found, seconds, basis in (
        ([other, own, same], 7.0, "1 finished run of leff on this task with this model"),
        ([other, own, elsewhere], 20.0, "1 finished run of leff with this model"),
        ([other, other, elsewhere], 300.0, "2 finished runs with this model"),
    ):
        prediction = Forecast(found).of(run)
        assert (prediction.seconds, prediction.basis) == (seconds, basis)
    assert Forecast([elsewhere]).of(run).seconds is None


def test_runs_that_shared_the_cores_are_predicted_from_too(copied, cli):
    study = Study.open("table1", ONE, copied)
    (run,), (result,) = study.runs, study.results.values()
    study.store.write(run, result | {"wall_seconds": None, "round_seconds": 1234.0})
    _, printed, _ = cli("table", 1, "--row", "LEFF", "--dry-run", "--json", *flags(copied))
    rows = json.loads(printed)
    assert [row["seconds"] for row in rows] == pytest.approx([1234, 1234])
    assert rows[1]["basis"].endswith(
        "of leff on this task with this model, 1 of them cut or beside others"
    )


def test_a_table_keeps_to_the_consoles_width(copied):
    study = Study.open("table1", Selection(), copied)
    for width in (24, 44, 80):
        console = Console(width=width, file=io.StringIO())
        print_table(console, study, study.values())
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        labels = [line.split()[0] for line in lines if line.startswith(("BLEU ", "CIDEr "))]
        assert labels == ["BLEU", "CIDEr"] * (2 if width == 24 else 1)
        cells = [word for line in lines for word in re.findall(r"\d\.\d+ \(1\)", line)]
        assert len(cells) == 2 * 3  # of either method, BLEU, CIDEr and their average


def test_dry_run_without_results_has_no_seconds(places, cli):
    status, printed, _ = cli("figure", 4, "--dry-run", "--json", *flags(places))
    rows = json.loads(printed)
    assert status == 0 and {row["point"] for row in rows} == {"0.5", "5"}
    unknown = "unknown: no run with this model is finished on this machine"
    assert {(row["basis"], row["seconds"]) for row in rows} == {(unknown, None)}
    assert all(row["bytes"] > 1e6 and not row["done"] for row in rows)
    status, printed, _ = cli("figure", 4, "--dry-run", *flags(places))
    assert status == 0 and "4 of 4 runs to do." in printed and unknown in printed
    assert "cannot be" not in printed and "time from" not in printed
    assert not places.runs.exists() and not places.results.exists()


def test_no_run_prints_what_is_there_and_what_is_missing(copied, cli, monkeypatch):
    monkeypatch.setattr(workshop, "in_this_process", raises)
    status, printed, _ = cli("table", 1, "--no-run", *flags(copied))
    assert status == 0 and "(1)" in printed and "not run (seed 1)" in printed
    status, printed, _ = cli("table", 1, "--no-run", "--json", *flags(copied))
    cell = json.loads(printed)[0]
    names = ["row", "column", "metric", "mean", "deviation", "seeds", "paper", "missing", "notes"]
    assert list(cell) == names and cell["seeds"] == 1 and cell["deviation"] is None
    status, printed, _ = cli("table", 1, "--no-run", "--markdown", *flags(copied))
    assert printed.startswith("### Table 1 (mini): Made up") and "| BLEU | " in printed


def test_a_figure_is_drawn_with_what_is_there(copied, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "own.png"
    status, printed, _ = cli("figure", 4, "--no-run", "--out", picture, *flags(copied))
    assert status == 0 and f"picture {picture}" in printed and "not run" in printed
    assert "Seeds: 1." in printed  # the caption
    assert picture.read_bytes().startswith(b"\x89PNG")
    status, printed, _ = cli("figure", 8, "--no-run", *flags(copied))
    assert (tmp_path / "figure8-mini.png").exists()
    cli("figure", 8, "--no-run", "--row", "leff", *flags(copied))
    assert (tmp_path / "figure8-mini-part.png").exists()
    status, _, said = cli("figure", 8, "--no-run", "--out", tmp_path / "a.pdf", *flags(copied))
    assert status == 2 and "--out must end in .png" in said


@pytest.mark.slow
def test_several_runs_at_a_time_come_to_the_same(finished, places):
    asked = Selection(seeds=(0,))
    study = Study.open("table1", asked, places)
    assert study.fill(jobs=2) == {}
    alone = Study.open("table1", asked, Places(*(finished / n for n in NAMES))).results
    assert study.results.keys() == alone.keys()
    for key, result in study.results.items():
        assert result["after"]["metrics"] == alone[key]["after"]["metrics"]


@pytest.mark.slow
def test_runs_in_processes_end_with_the_command(places, tmp_path):
    """A request to terminate reaches the runs, and the same command goes on from there."""
    write_experiments(places.experiments, training__rounds=500)
    command = [sys.executable, "-m", "leff", "table", "1", "--jobs", "2"]
    process = subprocess.Popen(
        [*command, *map(str, flags(places))], stderr=subprocess.PIPE, env={"PATH": ""}, text=True
    )
    deadline = time.monotonic() + 120
    while len(list(places.runs.glob("*/checkpoints/*"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command goes on from the last round" in said
    for folder in (path.parent for path in places.runs.glob("*/config.toml")):
        with RunFolder(folder).lock():  # nobody else has it
            pass


@pytest.mark.slow
def test_a_process_that_fails_says_why(places):
    write_experiments(places.experiments, clients__min_examples=1000)
    study = Study.open("table1", Selection(rows=("FedAvg",)), places)
    failures = study.fill(jobs=2)
    assert len(failures) == 2 and all("examples are too few" in f for f in failures.values())
