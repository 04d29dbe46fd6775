"""GLUE in both layouts and from the hub; labels in and out of range."""

import logging

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task
from leff.tasks.sources.glue import SPECS, score_bin

MNLI = "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
MRPC = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
ORIGINAL = {  # task -> (folder, development file, content, the row that it means)
    "cola": ("CoLA", "dev.tsv", 'gj04\t1\t\tHe "went.\n', ('He "went.', 1)),
    "sst2": ("SST-2", "dev.tsv", "sentence\tlabel\nit 's fun \t1\n", ("it 's fun ", 1)),
    "mrpc": ("MRPC", "dev.tsv", MRPC + '1\t7\t8\tA "b\tC d"\n', ('A "b', 'C d"', 1)),
    "stsb": ("STS-B", "dev.tsv", STSB + "0\tnews\tf\t2012\t1\tn\tn\tA\tB\t2.50\n", ("A", "B", 2.5)),
    "qqp": (
        "QQP",
        "dev.tsv",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tA?\tB?\t0\n9\tbroken\n",
        ("A?", "B?", 0),
    ),
    "mnli": (
        "MNLI",
        "dev_matched.tsv",
        MNLI + "0\t1\t2\tfiction\tA\tB\tneutral\tcontradiction\n",
        ("A", "B", 2),
    ),
    "qnli": (
        "QNLI",
        "dev.tsv",
        "index\tquestion\tsentence\tlabel\n0\tA\tB\tnot_entailment\n",
        ("A", "B", 1),
    ),
    "rte": (
        "RTE",
        "dev.tsv",
        "index\tsentence1\tsentence2\tlabel\n0\tA\tB\tentailment\n",
        ("A", "B", 0),
    ),
    "wnli": ("WNLI", "dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\tA\tB\t1\n", ("A", "B", 1)),
}


def first(dataset):
    row = dataset[0]
    return tuple(row[name] for name in ("text", "text_pair", "label") if name in row)


@pytest.mark.parametrize("inside", ["{original}/", "glue/{original}/", "{name}/"])
@pytest.mark.parametrize("name", ORIGINAL)
def test_original_files(write, tmp_path, name, inside):
    original, development, content, expected = ORIGINAL[name]
    folder = inside.format(original=original, name=name)
    write(f"{folder}train.tsv", content)
    write(f"{folder}{development}", content)
    for task in (load_task(name, tmp_path), load_task(name, tmp_path / folder)):
        assert len(task.train) == len(task.validation) == 1
        assert first(task.train) == first(task.validation) == expected
        assert task.test is None
        assert task.kind == ("regression" if name == "stsb" else "classification")
        assert task.labels == SPECS[name].labels


def compact(name):
    *texts, label = SPECS[name].columns
    return {**{t: [f"{t} {i}" for i in range(2)] for t in texts}, label: [0, 1]}


@pytest.mark.parametrize("name", ORIGINAL)
def test_compact_files(write, tmp_path, name):
    write(f"glue/{name}/train.parquet", compact(name))
    development = "dev_matched" if name == "mnli" else "dev"
    write(f"glue/{name}/{development}.parquet", compact(name))
    task = load_task(name, tmp_path)
    assert task.train["label"][:] == [0, 1]
    assert first(task.train)[0] == f"{SPECS[name].columns[0]} 0"
    assert task.attributes == ("label_bin" if name == "stsb" else "label",)


@pytest.mark.parametrize("name", ORIGINAL)
def test_hub(hub, name):
    development = "validation_matched" if name == "mnli" else "validation"
    unlabelled = compact(name) | {SPECS[name].columns[-1]: [0, 1] if name == "mrpc" else [-1, -1]}
    calls = hub({"train": compact(name), development: compact(name), "test": unlabelled})
    task = load_task(name)
    assert calls == [(("nyu-mll/glue", name), {})]
    assert len(task.validation) == 2
    assert (task.test is None) == (name != "mrpc")


def test_extra_columns_are_attributes(write, tmp_path):
    _, development, content, _ = ORIGINAL["stsb"]
    write("train.tsv", content)
    write(development, content)
    task = load_task("stsb", tmp_path)
    assert task.attributes == ("label_bin", "genre")
    assert task.train[0]["label_bin"] == 3


def test_score_bins_are_the_nearest_grades():
    assert [score_bin(s) for s in (0, 0.49, 0.5, 2.4, 4.5, 5)] == [0, 0, 1, 2, 5, 5]


def test_mrpc_as_its_authors_published_it(write, tmp_path):
    write("msr_paraphrase_train.txt", MRPC + "1\t1\t2\tA\tB\n0\t3\t4\tC\tD\n")
    write("msr_paraphrase_test.txt", MRPC + "0\t5\t6\tE\tF\n")
    write("dev_ids.tsv", "3\t4\n")
    task = load_task("mrpc", tmp_path)
    assert [first(d) for d in (task.train, task.validation, task.test)] == [
        ("A", "B", 1),
        ("C", "D", 0),
        ("E", "F", 0),
    ]


def test_heldout_stands_in_for_qqp_with_a_warning(write, tmp_path, caplog):
    write("qqp/train.parquet", compact("qqp"))
    write("qqp/heldout.parquet", compact("qqp"))
    with caplog.at_level(logging.WARNING):
        assert len(load_task("qqp", tmp_path).validation) == 2
    assert "heldout.parquet stands in" in caplog.text


@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("sst2", "label", 2, r"train.parquet, row 2: label 2 .*allowed: 0, 1, negative, positive"),
        ("sst2", "label", -1, r"row 2: label -1 is outside the range"),
        ("stsb", "label", 5.1, r"row 2: label 5.1 is outside the range; allowed: 0 to 5"),
        ("stsb", "label", float("nan"), r"row 2: no value in column 'label'"),
    ],
)
def test_label_outside_the_range(write, tmp_path, name, column, value, said):
    bad = compact(name) | {column: [0 * value if value == value else 0.0, value]}
    write(f"{name}/train.parquet", bad)
    write(f"{name}/dev.parquet", compact(name))
    with pytest.raises(DataError, match=said):
        load_task(name, tmp_path)


def test_missing_column_in_the_original_file(write, tmp_path):
    write("RTE/train.tsv", "index\tsentence1\tsentense2\tlabel\n0\tA\tB\tentailment\n")
    write("RTE/dev.tsv", ORIGINAL["rte"][2])
    with pytest.raises(DataError, match=r"train.tsv has no column 'sentence2'.*'sentense2'"):
        load_task("rte", tmp_path)


def test_a_short_line_is_an_error_outside_qqp(write, tmp_path):
    write("train.tsv", ORIGINAL["rte"][2] + "1\tA\n")
    write("dev.tsv", ORIGINAL["rte"][2])
    with pytest.raises(DataError, match=r"train.tsv, line 3: 2 fields, but the columns are 4"):
        load_task("rte", tmp_path)


def test_another_tasks_folder_is_refused(write, tmp_path):
    write("CoLA/train.parquet", compact("cola"))
    write("CoLA/dev.parquet", compact("cola"))
    with pytest.raises(DataError, match="does not hold the task 'sst2'"):
        load_task("sst2", tmp_path / "CoLA")
