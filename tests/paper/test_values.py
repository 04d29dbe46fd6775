"""Means, deviations and averages, and how they are printed."""

import numpy as np
import pytest

from leff.paper.captions import missing_lines, note_lines
from leff.paper.cells import Selection, cells
from leff.paper.experiment import experiments_folder, read_common, read_experiment
from leff.paper.published import TABLES
from leff.paper.values import Value, metric_values, round_values

FOLDER = experiments_folder()
COMMON = read_common(FOLDER)
PAPER_AVERAGES = {  # Table 1, GLUE and NLG
    "FedAvg": (65.88, 2.2980),
    "FedBitFit": (53.41, 2.0570),
    "FedLoRA": (54.57, 1.9788),
    "SLoRA": (59.70, 2.2572),
    "LEFF": (63.84, 2.2805),
}


def made(name, numbers, **selection):
    """Return an experiment's cells, and a result for every run: `numbers` by task, then seed."""
    found = cells(read_experiment(FOLDER, name), COMMON, Selection(**selection))
    results = {}
    for run in (run for cell in found for run in cell.runs):
        if run.seed not in numbers.get(run.task, {}):
            continue
        names = COMMON.tasks[run.task].metrics.values()
        value = numbers[run.task][run.seed]
        notes = {"METEOR": "no Java"} if "METEOR" in names else {}
        results[run.key] = {
            "after": {"metrics": dict.fromkeys(names, value), "notes": notes},
            "rounds": [{"round": n, "loss": value and value / (n + 1)} for n in range(3)],
        }
    return found, results


def by_column(values):
    return {value.column: value for value in values}


def test_mean_and_deviation_are_numpys():
    numbers = [0.731, 0.652, 0.702]
    value = Value("a", "", "b", "m", dict(enumerate(numbers)), 1)
    assert value.mean == pytest.approx(np.mean(numbers), rel=1e-14)
    assert value.deviation == pytest.approx(np.std(numbers, ddof=1), rel=1e-14)
    one = Value("a", "", "b", "m", {0: 0.5}, 1)
    assert (one.mean, one.deviation) == (0.5, None)
    none = Value("a", "", "b", "m", {}, 1)
    assert (none.mean, none.deviation) == (None, None)


def test_a_cell_has_points_seeds_and_the_papers_figure():
    found, results = made("table1", {"CoLA": {0: 0.2, 1: 0.3}}, rows=("LEFF",), columns=("CoLA",))
    (value,) = metric_values(read_experiment(FOLDER, "table1"), COMMON, found, results, {})
    assert value.to_dict() == {
        "row": "LEFF",
        "column": "CoLA",
        "metric": "matthews",
        "mean": pytest.approx(25.0),
        "deviation": pytest.approx(np.std([20, 30], ddof=1)),
        "seeds": 2,
        "paper": 27.74,
        "missing": "not run (seed 2)",
        "notes": [],
    }


def test_an_average_is_taken_seed_by_seed_over_the_columns_of_the_size():
    numbers = {"SST-2": {0: 0.7, 1: 0.8}, "STS-B": {0: 0.4}}
    found, results = made("table2", numbers, rows=("8",), seeds=(0, 1))
    experiment = read_experiment(FOLDER, "table2")
    average = by_column(metric_values(experiment, COMMON, found, results, {}))["GLUE average"]
    assert average.by_seed == {0: pytest.approx(55.0)}  # seed 1 lacks STS-B
    paper = [TABLES["table2"]["8"][column] for column in [*numbers]]
    assert average.paper == pytest.approx(np.mean(paper))
    assert average.missing == "incomplete: STS-B"
    without = metric_values(experiment, COMMON, found, results, {}, averages=False)
    assert "GLUE average" not in by_column(without)


def test_the_papers_averages_follow_from_its_columns():
    experiment = read_experiment(FOLDER, "table1")
    found = cells(experiment, COMMON, Selection(size="full"))
    values = metric_values(experiment, COMMON, found, {}, {})
    for row, (glue, nlg) in PAPER_AVERAGES.items():
        own = by_column([value for value in values if value.row == row])
        assert own["GLUE average"].paper == pytest.approx(glue, abs=0.006)
        assert own["NLG average"].paper == pytest.approx(nlg, abs=6e-5)


def test_what_is_not_there_says_why():
    experiment = read_experiment(FOLDER, "table1")
    found, results = made("table1", {"E2E": {0: None, 1: 0.1, 2: 0.1}}, rows=("LEFF",))
    lost = next(run for cell in found if cell.task == "RTE" for run in cell.runs)
    values = by_column(metric_values(experiment, COMMON, found, results, {lost.key: "it broke"}))
    assert values["QQP"].missing == "not in mini" and values["QQP"].paper == 70.83
    assert values["RTE"].missing == "it broke (seed 0); not run (seeds 1, 2)"
    assert values["METEOR"].missing == "no Java (seed 0)"
    assert values["BLEU"].missing == "not finite (seed 0)" and values["BLEU"].mean == 0.1


def test_a_table_of_deviations_has_no_averages():
    experiment = read_experiment(FOLDER, "table7")
    found = cells(experiment, COMMON, Selection())
    values = metric_values(experiment, COMMON, found, {}, {})
    assert not {"GLUE average", "NLG average"} & {value.column for value in values}
    assert by_column(values)["CoLA"].paper == 1.38  # of LEFF, the last row


def test_losses_by_round():
    found, results = made("figure8", {"RTE": {0: 0.6, 1: 0.9}}, rows=("LEFF",), columns=("RTE",))
    values = round_values(found, results, {})
    assert [value.point for value in values] == ["0", "1", "2"]
    assert [value.mean for value in values] == pytest.approx([0.75, 0.375, 0.25])
    assert values[0].deviation == pytest.approx(np.std([0.6, 0.9], ddof=1))
    assert {value.missing for value in values} == {"not run (seed 2)"}
    next(iter(results.values()))["rounds"][1]["loss"] = None  # what was not finite
    values = round_values(found, results, {})
    assert [len(value.by_seed) for value in values] == [2, 1, 2]
    assert {value.missing for value in values} == {
        "no finite loss in some rounds (seed 0); not run (seed 2)"
    }


def test_what_is_missing_is_named_by_run_not_by_metric_or_round():
    experiment = read_experiment(FOLDER, "table1")
    chosen = {"rows": ("FedAvg", "LEFF"), "columns": ("E2E", "RTE")}
    found, results = made("table1", {"E2E": {0: 0.5}, "RTE": {0: 0.5}}, **chosen)
    for row, task in (("FedAvg", "E2E"), ("LEFF", "RTE")):
        (key,) = (r.key for c in found if (c.row, c.task) == (row, task) for r in c.runs[:1])
        del results[key]
    values = metric_values(experiment, COMMON, found, results, {})
    assert missing_lines(values) == [
        "FedAvg RTE; LEFF E2E: not run (seeds 1, 2)",
        "FedAvg E2E; LEFF RTE: not run (seeds 0, 1, 2)",
    ]
    rounds = missing_lines(round_values(found, results, {}))
    assert sorted(rounds) == sorted(missing_lines(values))


def test_what_runs_say_of_a_metric_is_said_once():
    """Of notes that differ in figures one; of a metric that is not there it is the reason."""
    found, results = made("table4", {"MMLU": {0: 0.25}})
    first, *others = results.values()
    first["after"]["notes"] = {"shots": "1 of 64 questions had 1.5 shots"}
    for other in others:
        other["after"]["notes"] = {"shots": "3 of 64 questions had 0.5 shots"}
    values = metric_values(read_experiment(FOLDER, "table4"), COMMON, found, results, {})
    assert values[0].to_dict()["notes"] == ["1 of 64 questions had 1.5 shots"]
    assert note_lines(values) == ["MMLU: 1 of 64 questions had 1.5 shots (similar in other runs)"]
    found, results = made("table3", {"E2E": {0: 0.5}}, rows=("8",))
    (notes,) = (result["after"]["notes"] for result in results.values())
    notes["NIST"] = "not the official one"
    values = metric_values(read_experiment(FOLDER, "table3"), COMMON, found, results, {})
    assert note_lines(values) == ["NIST: not the official one", "METEOR: no Java"]
    (result,) = results.values()
    result["after"]["metrics"]["METEOR"] = None
    values = metric_values(read_experiment(FOLDER, "table3"), COMMON, found, results, {})
    assert note_lines(values) == ["NIST: not the official one"]
    assert missing_lines(values) == ["METEOR: no Java (seed 0)"]


def test_a_metric_alone_that_is_missing_is_named():
    found, results = made("table1", {"E2E": {0: 0.5, 1: 0.5, 2: 0.5}}, columns=("E2E",))
    metrics = results[found[-1].runs[0].key]["after"]["metrics"]  # of LEFF
    metrics["METEOR"] = None
    values = metric_values(read_experiment(FOLDER, "table1"), COMMON, found, results, {})
    assert missing_lines(values) == ["LEFF METEOR: no Java (seed 0)"]


def test_figure_4_has_the_papers_table_1_at_its_alpha():
    experiment = read_experiment(FOLDER, "figure4")
    found = cells(experiment, COMMON, Selection(rows=("SLoRA",), columns=("SST-2",)))
    values = metric_values(experiment, COMMON, found, {}, {})
    assert {value.point: value.paper for value in values} == {"0.05": 72.44, "0.5": None, "5": None}
