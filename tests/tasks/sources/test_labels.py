"""Labels as people write them: one rule each, said before any work."""

import json

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task


@pytest.fixture
def load(tmp_path):
    """Load a table with these labels; the texts differ."""

    def _load(labels, validation=(), **options):
        for name, values in (("train", labels), ("val", validation or labels)):
            rows = [{"text": f"{name} {i}", "label": value} for i, value in enumerate(values)]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        val = tmp_path / "val.jsonl"
        return load_task("table", train=tmp_path / "train.jsonl", validation=val, **options)

    return _load


@pytest.mark.parametrize(
    ("labels", "names", "said"),
    [
        (["a", "a ", "b", " b"], ("a", "b"), "'a ' as 'a', ' b' as 'b'"),
        (["very good", "very\u00a0 good", "bad"], ("bad", "very good"), "blanks"),
        (["caf\u00e9", "cafe\u0301", "bar"], ("bar", "caf\u00e9"), "Unicode form"),
        ([0.0, 1.0, 0.0], ("0", "1"), "'0.0' as '0', '1.0' as '1'"),
        (["0.0", "1.0", "2"], ("0", "1", "2"), "decimals"),
        ([1, "1", 1.0, 2], ("1", "2"), "'1.0' as '1'"),
        (["01", "1", "-2"], ("-2", "01", "1"), None),
        ([9007199254740993, "9007199254740992"], ("9007199254740992", "9007199254740993"), None),
        ([True, False, "True"], ("False", "True"), None),
        (["a, not b", "a"], ("a", "a, not b"), None),
        (["New York, NY", "Paris; FR"], ("New York, NY", "Paris; FR"), None),
        (["1.5", "latest", "2"], ("1.5", "2", "latest"), None),
        (["1_0", "2"], ("1_0", "2"), None),
    ],
)
def test_classes(load, caplog, labels, names, said):
    task = load(labels)
    assert (task.kind, task.labels) == ("classification", names)
    merged = [record.message for record in caplog.records if "one class" in record.message]
    assert bool(merged) == bool(said) and (said is None or said in merged[0])
    assert set(task.train["label"][:]) == set(task.validation["label"][:]) == set(range(len(names)))


@pytest.mark.parametrize("labels", [[0, 1, 2.5], ["1.0", "2.25"], ["1e-3", "2"]])
def test_one_fraction_makes_scores(load, labels):
    task = load(labels)
    assert task.kind == "regression" and task.train["label"][:] == [float(x) for x in labels]


def test_labels_that_differ_in_case_stay_apart_with_a_warning(load, caplog):
    assert load(["Yes", "yes", "no"] * 5).labels == ("Yes", "no", "yes")
    assert "the labels Yes, yes differ only in case and stay apart" in caplog.text
    assert "few examples" not in caplog.text


def test_a_class_with_few_examples_is_said(load, caplog):
    load(["a"] * 9 + ["b"] * 9 + ["c"] * 2)
    assert "few examples of these classes: c (2)" in caplog.text


MANY = [f"id{i}" for i in range(90)] + ["id0"] * 10


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a", ["a", "b"]], "line 2: label .* is a list; for several classes a row, map"),
        (["a", "['a', 'b']"], "line 2: label .* is a list"),
        (["a", "b", "a;b"], "line 3: label 'a;b' is several labels in one"),
        (["a", "b", "a , b"], "line 3: label 'a , b' is several labels in one"),
        (["a", "b", "b|a"], "line 3: label 'b|a' is several"),
        (["a", {"x": 1}], "line 2: label .* is a list"),
        (["a", "a "], "all labels are 'a', so there is nothing to learn"),
        (["a", None], "line 2: no value in column 'label'"),
        (["a", " "], "line 2: no value in column 'label'"),
        ([1, "nan"], "line 2: label 'nan' is not a finite number"),
        ([0.5, float("inf")], "line 2: label inf is not a finite number"),
        (MANY, "column 'label' has 90 different values in 100 rows, such as id0, id1, id2; map"),
    ],
)
def test_what_is_refused(load, labels, said):
    with pytest.raises(DataError, match=said) as caught:
        load(labels)
    assert ".jsonl" in str(caught.value)


def test_many_classes_are_taken_if_the_kind_says_so(load, caplog):
    assert len(load(MANY, kind="classification").labels) == 90
    assert "column 'label' has 90 different values in 100 rows" in caplog.text
    assert len(load([f"c{i}" for i in range(50)] * 2).labels) == 50


def test_a_class_that_only_validation_has(load):
    with pytest.raises(DataError, match=r"val.jsonl, line 2: label 'z' is none of .*: x, y"):
        load(["x", "y"], ["y ", "z"])
    assert load([0, 1], ["1.0", " 0"]).validation["label"][:] == [1, 0]
