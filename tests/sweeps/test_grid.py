"""`leff sweep`: points and seeds, mean and deviation, the best by validation, going on."""

import json
import statistics

import pytest
from tiny_runs import flags, least

from leff.cli.sweep import values_of
from leff.errors import ConfigError
from leff.runs.folder import RunFolder
from leff.sweeps import workshop
from leff.sweeps.grid import best, grid_points

pytestmark = pytest.mark.usefixtures("quick_runs")
RATES = "training.learning_rate=1e-3,1e-2"


@pytest.fixture
def swept(cli, tmp_path):
    given = least(tmp_path, training__rounds=1, evaluation__final_examples=2)

    def command(*arguments):
        return cli("sweep", "--out", tmp_path / "sweep", *flags(given), *arguments)

    return command


def test_a_grid_with_seeds_and_the_same_again(swept, tmp_path, monkeypatch):
    status, printed, said = swept("--grid", RATES, "--seeds", 2, "--json")
    assert status == 0, said
    value = json.loads(printed)
    rows = value["rows"]
    assert [row["training.learning_rate"] for row in rows] == [1e-3, 1e-2]
    for row in rows:
        opened = [RunFolder.open(tmp_path / folder) for folder in row["folders"]]
        assert [config.seed for _, config in opened] == [0, 1]
        assert {c.training.learning_rate for _, c in opened} == {row["training.learning_rate"]}
        last = [folder.records()[-1].metric for folder, _ in opened]
        assert row["validation"] == pytest.approx(statistics.mean(last))
        assert row["validation_sd"] == pytest.approx(statistics.stdev(last))
        after = [folder.result()["after"]["metrics"][row["metric"]] for folder, _ in opened]
        assert row["test"] == pytest.approx(statistics.mean(after))
        assert all((folder.path / "model").exists() for folder, _ in opened)
        assert not any((folder.path / "checkpoints").exists() for folder, _ in opened)
    assert rows[0]["metric"] == "perplexity"
    assert value["best"] == min(rows, key=lambda row: row["validation"])
    assert "learning_rate 0.001, seed 1" in said

    monkeypatch.setattr(workshop, "in_this_process", None)  # nothing is left to do
    assert swept("--grid", RATES, "--seeds", 2, "--json")[1] == printed
    status, table, _ = swept("--grid", RATES, "--seeds", 2, "--no-run")
    lines = table.splitlines()
    assert status == 0 and sum("best by validation" in line for line in lines) == 1
    assert f"{rows[0]['test']:.4f} ± {rows[0]['test_sd']:.4f}" in table
    assert {row["split"] for row in rows} == {"validation"}  # there is no test file
    assert "validation, at the end" in lines[0] and "test" not in lines[0]


def test_what_is_missing_is_run_and_what_fails_is_named(swept, tmp_path, monkeypatch):
    real = workshop.in_this_process

    def some(run, folder):
        if run.config.training.learning_rate == 1e-2:
            raise OSError("the disk is full")
        real(run, folder)

    monkeypatch.setattr(workshop, "in_this_process", some)
    status, printed, said = swept("--grid", RATES, "--json")
    assert status == 1
    assert "1 of 2 runs failed (the first: the disk is full)" in said
    assert [row["runs"] for row in json.loads(printed)["rows"]] == [1, 0]
    monkeypatch.setattr(workshop, "in_this_process", real)
    status, printed, _ = swept("--grid", RATES, "--json")
    assert status == 0 and [row["runs"] for row in json.loads(printed)["rows"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "training.learning_rate"], "--grid takes KEY=VALUE,VALUE"),
        (["--grid", "training.learning_rate="], "--grid takes KEY=VALUE,VALUE"),
        (["--grid", "training.learning_rat=1,2"], "unknown key training.learning_rat"),
        (["--grid", "training.learning_rate=1e-3,9"], "must be at most 1"),
        (["--grid", "seed=1,2"], "--seeds says how many"),
        (["--grid", "training.rounds=1,2"], "training.rounds is in --grid and set too"),
        (["--grid", RATES, "--grid", RATES], "--grid has an option twice"),
        (["--grid", "training.learning_rate=1e-3,0.001"], "the same options; give each value once"),
        (["--grid", "training.momentum=" + ",".join(map(str, range(1001)))], "1,001 runs"),
        (["--seeds", "0"], "0 is not in the range"),
    ],
)
def test_bad_input_before_any_run(arguments, message, swept, tmp_path):
    status, _, said = swept(*arguments)
    assert status == 2 and message in " ".join(said.split())
    assert not (tmp_path / "sweep").exists()


def test_an_unknown_method_is_refused_before_any_run():
    with pytest.raises(ConfigError, match="no method 'fedfoo'"):
        grid_points(None, {}, {"method.name": ["leff", "fedfoo"]})


def test_values_are_toml_or_texts():
    assert values_of("a.b=1e-4, 2") == ("a.b", [1e-4, 2])
    assert values_of("method.name=leff,fedlora") == ("method.name", ["leff", "fedlora"])
    assert values_of("clients.layers=[1],[1, 2]") == ("clients.layers", [[1], [1, 2]])


def test_the_points_are_all_combinations_in_order():
    points = grid_points(None, {}, {"training.rounds": [1, 2], "method.name": ["leff", "fedavg"]})
    assert [tuple(p.values.values()) for p in points] == [
        (1, "leff"),
        (1, "fedavg"),
        (2, "leff"),
        (2, "fedavg"),
    ]
    with pytest.raises(ConfigError, match="has no values"):
        grid_points(None, {}, {"training.rounds": []})


def test_the_best_has_all_its_seeds():
    rows = [
        {"metric": "BLEU", "runs": 2, "validation": 0.3},
        {"metric": "BLEU", "runs": 2, "validation": 0.5},
        {"metric": "BLEU", "runs": 1, "validation": 0.9},
        {"metric": "BLEU", "runs": 2, "validation": None},
    ]
    assert best(rows, 2) == 1
    assert best([{**row, "metric": "perplexity"} for row in rows], 2) == 0
    assert best(rows[2:], 2) is None
