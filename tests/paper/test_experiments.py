"""The experiments of the paper: every file expands to checked runs, and tables share runs."""

import json

import pytest

from leff.capacity.peak import predict
from leff.errors import ConfigError, DataError
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup
from leff.methods.stand_ins import make_context
from leff.models.known import load_config
from leff.paper.cells import Selection, cells
from leff.paper.experiment import (
    SIZES,
    experiments_folder,
    known_experiments,
    read_common,
    read_experiment,
)
from leff.paper.published import TABLES, TRAINABLE
from leff.runs.config import parse_config
from leff.sweeps.keys import run_key
from leff.wire.messages import Step

FOLDER = experiments_folder()
NAMES = known_experiments(FOLDER)
COMMON = read_common(FOLDER)


def runs(name, size="mini", **selection):
    found = cells(read_experiment(FOLDER, name), COMMON, Selection(size=size, **selection))
    return {run.key: run for cell in found for run in cell.runs}


def test_all_tables_and_figures_are_there():
    numbers = [f"figure{n}" for n in range(4, 9)] + [f"table{n}" for n in range(1, 11)]
    assert numbers == NAMES


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "table5"])
def test_an_experiment_expands_to_checked_runs(name, size):
    found = runs(name, size)
    assert found
    for key, run in found.items():
        assert key == run_key(run.config) and len(key) == 16
        assert run.config.training.learning_rate > 0
        assert run.config.seed == run.seed
        clients, examples = run.config.clients, run.config.data.train_examples
        assert examples is None or examples >= clients.count * clients.min_examples


def test_figures_that_are_the_papers_are_published_for_every_row_and_column():
    for name, table in TABLES.items():
        experiment = read_experiment(FOLDER, name)
        metrics = [c for task in experiment.tasks for c in COMMON.tasks[task].metrics]
        assert set(table) == set(experiment.rows)
        assert all(list(values) == metrics for values in table.values())
    table5 = read_experiment(FOLDER, "table5")
    assert list(TRAINABLE) == table5.models


@pytest.mark.parametrize("size", SIZES)
def test_tables_share_runs(size):
    table1 = runs("table1", size).keys()
    assert runs("table7", size).keys() == table1
    assert runs("figure8", size).keys() == table1
    assert table1 & runs("figure4", size).keys()
    first = {"size": size, "seeds": (0,)}  # figures 6 and 7 have more at mini size
    importance = runs("figure6", rows=("importance",), **first).keys()
    eight = runs("table2", rows=("8",), **first).keys()
    assert importance == eight and eight <= runs("figure4", size).keys()
    assert (
        runs("figure7", rows=("IMPORTANCE",), **first).keys()
        == runs("table3", rows=("8",), **first).keys()
    )


def test_mini_has_the_seeds_and_points_that_were_planned():
    figure4 = runs("figure4").values()
    assert {run.point for run in figure4} == {"0.05", "0.5", "5"}
    assert {run.seed for run in figure4 if run.point == "0.05"} == {0, 1, 2}
    assert {run.seed for run in figure4 if run.point != "0.05"} == {0}
    assert {run.config.clients.alpha for run in runs("table1").values()} == {0.05}


def test_a_key_leaves_out_engine_folders_and_defaults():
    plain = parse_config({"data": {"task": "cola"}})
    same = parse_config(
        {
            "data": {"task": "cola", "folder": "/anywhere"},
            "engine": {"workers": 3, "device": "cpu"},
            "clients": {"count": 8},  # the default
        }
    )
    other = parse_config({"data": {"task": "cola"}, "clients": {"count": 9}})
    assert run_key(plain) == run_key(same) != run_key(other)


def test_a_key_of_files_is_that_of_their_last_names():
    def key(path):
        return run_key(parse_config({"data": {"task": "text", "train": path}}))

    assert key("/a/b/own.txt") == key("/c/b/own.txt") != key("/a/b/other.txt")


def test_a_key_of_a_models_folder_is_that_of_its_last_names():
    def key(name):
        return run_key(parse_config({"model": {"name": name}}))

    assert key("/a/b/model") == key("/c/b/model") != key("/a/other/model")


def test_what_is_unknown_is_refused_with_what_exists(tmp_path):
    with pytest.raises(ConfigError, match="there is no table 11; there are figure 4, figure 5"):
        read_experiment(FOLDER, "table11")
    with pytest.raises(ConfigError, match="has no row 'peft'; it has FedAvg, FedBitFit"):
        runs("table1", rows=("peft",))
    with pytest.raises(ConfigError, match=r"has no column 'wnli'; it has CoLA.* E2E, BLEU"):
        runs("table1", columns=("wnli",))
    with pytest.raises(ConfigError, match="at size mini has no QQP, only CoLA"):
        runs("table1", columns=("qqp",))
    with pytest.raises(ConfigError, match="--size cannot be 'small'"):
        runs("table1", size="small")
    with pytest.raises(ConfigError, match=r"has no point '7'; it has 0\.05, 0\.1"):
        runs("figure4", points=("7",))
    with pytest.raises(ConfigError, match=r"at size mini has no 10, only 0\.05, 0\.5, 5"):
        runs("figure4", points=("10",))
    with pytest.raises(ConfigError, match="table 1 has no points"):
        runs("table1", points=("5",))
    with pytest.raises(ConfigError, match=r"no experiments in .*--experiments"):
        experiments_folder(tmp_path)


def test_labels_are_taken_in_any_case_and_a_metric_is_a_column():
    found = cells(
        read_experiment(FOLDER, "table1"), COMMON, Selection(rows=("leff",), columns=("rouge-l",))
    )
    assert [(cell.row, cell.task, cell.columns) for cell in found] == [
        ("LEFF", "E2E", ("ROUGE-L",))
    ]
    assert [run.seed for run in found[0].runs] == [0, 1, 2]


def test_a_task_may_have_a_rate_of_its_own(tmp_path):
    path = tmp_path / "common.toml"
    path.write_text(
        (FOLDER / "common.toml").read_text().replace("LEFF = { glue", "LEFF = { RTE = 0.5, glue")
    )
    selected = Selection(rows=("LEFF", "SLoRA"), columns=("RTE", "MRPC"), seeds=(0,))
    found = cells(read_experiment(FOLDER, "table1"), read_common(tmp_path), selected)
    rates = {(c.row, c.task): c.runs[0].config.training.learning_rate for c in found}
    assert rates["LEFF", "RTE"] == 0.5 != rates["LEFF", "MRPC"]
    assert rates["SLoRA", "RTE"] == rates["SLoRA", "MRPC"]


def test_a_point_is_asked_for_by_its_label():
    (run,) = runs("figure4", rows=("LEFF",), columns=("SST-2",), points=("5",)).values()
    assert run.config.clients.alpha == 5
    assert run.command == ("leff figure 4 --size mini --row LEFF --column SST-2 --point 5 --seed 0")


def test_a_file_that_a_row_needs_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("LEFF_DATA", raising=False)
    experiment = read_experiment(FOLDER, "table6")
    nowhere = cells(experiment, COMMON, Selection())
    assert "name its folder with --data-dir or LEFF_DATA" in nowhere[-1].absent
    wanted = tmp_path / "openwebtext" / "train.txt"
    there = Selection(data_dir=tmp_path)
    assert f"no {wanted}" in cells(experiment, COMMON, there)[-1].absent
    with pytest.raises(DataError, match="OpenWebText: no data: there is no"):
        cells(experiment, COMMON, Selection(rows=("openwebtext",), data_dir=tmp_path))
    wanted.parent.mkdir()
    wanted.write_text("a text\n")
    found = cells(experiment, COMMON, there)[-1]
    assert not found.absent and found.runs[0].config.proxy.train == wanted


def test_a_row_says_why_it_has_no_run_on_a_task():
    experiment = read_experiment(FOLDER, "table8")
    found = cells(experiment, COMMON, Selection(rows=("plain loss",)))
    assert {cell.task: (cell.absent, len(cell.runs)) for cell in found if not cell.left_out} == {
        "SST-2": ("", 1),
        "E2E": ("LEFF's own loss there", 0),
    }
    with pytest.raises(ConfigError, match="no plain loss on E2E: LEFF's own loss there"):
        cells(experiment, COMMON, Selection(rows=("plain loss",), columns=("E2E",)))


def test_a_wrong_file_is_refused(tmp_path):
    for path in FOLDER.glob("*.toml"):
        (tmp_path / path.name).write_text(path.read_text())
    table = tmp_path / "table3.toml"
    good = table.read_text()
    absent = '[rows."9"]\nmethod = "LEFF"\nabsent = { CoLA = "" }'
    for wrong, said in (
        (good.replace('method = "LEFF"', 'method = "PEFT"'), "no method 'PEFT'; there are FedAvg"),
        (good.replace('rows = ["8", "40"]', 'rows = ["9"]'), "no mini row '9'; there are 8, 16"),
        (good.replace("title", "titel"), "titel"),
        (f"{good}\n{absent}", "no task, for absent 'CoLA'; there are E2E"),
        (good + "\n[", "cannot be read as TOML"),
    ):
        table.write_text(wrong)
        with pytest.raises(ConfigError, match=said):
            read_experiment(tmp_path, "table3")
    figure = tmp_path / "figure5.toml"
    figure.write_text(figure.read_text().replace('"0.8" =', '"high" ='))
    with pytest.raises(ConfigError, match="the point 'high' has to be a number"):
        read_experiment(tmp_path, "figure5")
    common, text = tmp_path / "common.toml", (FOLDER / "common.toml").read_text()
    for before, after, said in (
        (
            'RTE = { group = "glue"',
            'RTE = { group = "g"',
            "RTE is of a group 'g'; there are glue, e2e, mmlu",
        ),
        ("LEFF = { glue =", "LEFF = { blue =", "no task or group in mini.rates 'blue'; .*SST-2"),
        ("SLoRA = { glue =", "LoRA = { glue =", "no method in mini.rates 'LoRA'; .*SLoRA"),
        ('STS-B = { "data', 'STS-C = { "data', "no mini task 'STS-C'"),
    ):
        common.write_text(text.replace(before, after))
        with pytest.raises(ConfigError, match=said):
            read_common(tmp_path)
    common.write_text(text)
    table.write_text(good.replace("clients.count", "clients.number"))
    with pytest.raises(ConfigError, match=r"table 3, 8, E2E: .*unknown key clients\.number"):
        cells(read_experiment(tmp_path, "table3"), COMMON, Selection())


def test_table_5_is_the_papers_to_the_digit(cli):
    status, printed, _ = cli("table", "5", "--json")
    found = json.loads(printed)
    assert status == 0 and len(found) == 25
    for cell in found:
        paper = TRAINABLE[cell["model"]][cell["method"]]
        if isinstance(paper, int):
            assert cell["trainable_parameters"] == cell["paper"] == paper
        else:
            assert cell["paper"] is None and paper in cell["note"]
    status, printed, _ = cli("table", "5", "--row", "GPT2", "--column", "leff")
    assert status == 0 and printed.count("7,089,408") == 2 and "gpt2-large" not in printed
    status, printed, _ = cli("table", "5", "--markdown", "--row", "gpt2")
    assert "| gpt2 | 85,056,000 [85,056,000] |" in printed


@pytest.mark.parametrize("flag", [("--seed", 1), ("--model", "gpt2"), ("--dry-run",)])
def test_table_5_refuses_what_is_for_runs(cli, flag):
    status, _, said = cli("table", 5, *flag)
    assert status == 2 and f"table 5 is counted, not run; leave out {flag[0]}" in said


def test_table_5_predicts_memory_beside_the_papers(cli):
    asked = ("table", "5", "--memory", "--row", "gpt2", "--column", "fedbitfit", "--column", "leff")
    bitfit, leff = json.loads(cli(*asked, "--json")[1])
    assert (bitfit["paper_gb"], leff["paper_gb"]) == (2.206, 1.719)
    context = make_context("distil", rate=0.2)
    setup = ClientSetup(step=Step(batch_size=8), length=128, context=context)
    peak = predict(*load_config("gpt2"), spec_of("leff"), setup).peak
    assert leff["predicted_bytes"] == peak < bitfit["predicted_bytes"]
    printed = cli(*asked)[1]
    assert f"{peak / 1e9:.3f}" in printed and "1.719" in printed
    status, _, said = cli("table", "1", "--memory")
    assert status == 2 and "--memory is for table 5" in said
