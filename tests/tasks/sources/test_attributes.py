"""The other columns of a file, and several files."""

import json

import pytest

from leff.errors import ConfigError, DataError
from leff.tasks.load import load_task
from leff.tasks.partition import partition


@pytest.fixture
def save(tmp_path):
    def _save(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return _save


def tickets(count, prefix="t", **more):
    return [{"text": f"{prefix}{i}", "label": "ab"[i % 2], **more} for i in range(count)]


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["x", "x ", "y"], ["x", "x", "y"]),
        ([1.0, 2.0, 1], [1, 2, 1]),
        ([1, "1", "x"], ["1", "1", "x"]),
        ([True, False, True], [True, False, True]),
        ([True, 2, 3], ["True", "2", "3"]),
        ([2**70, 1, 2], [str(2**70), "1", "2"]),
    ],
)
def test_groups(save, values, kept):
    rows = [{"text": f"t{i}", "town": v} for i, v in enumerate(values)]
    path = save("a.jsonl", rows)
    task = load_task("table", train=path, validation=path)
    assert task.attributes == ("town",) and task.train["town"][:] == kept


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "a.jsonl, line 4: no value in column 'town'"),
        (" ", "a.jsonl, line 4: no value in column 'town'"),
        (0.5, "a.jsonl, line 4: 0.5 in column 'town' is neither a name nor a whole number"),
        (["x"], "line 4: ['x'] in column 'town' is neither"),
    ],
)
def test_a_column_that_cannot_divide_says_why(save, value, said):
    path = save("a.jsonl", [*tickets(3, town="x"), {"text": "z", "label": "a", "town": value}])
    task = load_task("table", train=path, validation=path)
    assert task.attributes == ("label",) and said in task.unusable["town"]


def test_columns_by_our_names_are_not_overwritten_in_silence(save, caplog):
    rows = [{"text": f"t{i}", "label": i / 2, "label_bin": "mine", "client": i} for i in range(5)]
    path = save("a.jsonl", rows)
    task = load_task("table", train=path, validation=path)
    assert task.attributes == ("label_bin", "client") and task.train["label_bin"][4] == 5
    assert "a.jsonl: the column 'label_bin' is not kept" in caplog.text
    classes = save("b.jsonl", tickets(4, label_bin="mine", file="f"))
    kept = load_task("table", train=classes, validation=classes)
    assert kept.attributes == ("label", "label_bin", "file")


# Several files


def test_a_pattern_and_a_list_give_each_row_its_file(save, tmp_path, caplog):
    for name, count in (("berlin", 30), ("paris", 20), ("rome", 2)):
        save(f"{name}.jsonl", tickets(count, name, file="mine"))
    task = load_task("table", tmp_path, train="*.jsonl")
    assert "the column 'file' is not kept" in caplog.text
    assert task.attributes == ("label", "file")
    files = task.train["file"][:]
    assert {name: files.count(name) for name in files} == {"berlin": 27, "paris": 18, "rome": 1}
    listed = load_task("table", tmp_path, train=["rome.jsonl", "paris.jsonl", "berlin.jsonl"])
    assert listed.train[:] == task.train[:]
    split = partition(task.train, 3, "files", by="file", min_examples=1)
    assert split.counts == ({"berlin": 27}, {"paris": 18}, {"rome": 1}) and split.moved == 0


def test_a_text_that_several_files_have_stays_in_training(save):
    paths = [save(f"{name}.jsonl", [*tickets(9, name), *tickets(30)]) for name in ("x", "y")]
    for seed in range(5):
        task = load_task("table", train=paths, seed=seed)
        assert {text[0] for text in task.validation["text"]} == {"x", "y"}
        assert len(task.validation) == 2


def test_a_complaint_names_the_file(save):
    good, bad = save("a.jsonl", tickets(3)), save("b.jsonl", [{"text": "x"}])
    with pytest.raises(DataError, match=r"b.jsonl has no column 'label'"):
        load_task("table", train=[good, bad])
    bad = save("b.jsonl", [*tickets(1), {"text": "x", "label": ["a"]}])
    with pytest.raises(DataError, match=r"b.jsonl, line 2: label \['a'\] is a list"):
        load_task("table", train=[good, bad])
    town = save("b.jsonl", tickets(3, "u", town="x"))
    task = load_task("table", train=[good, town], validation=good)
    assert "a.jsonl, line 1: no value in column 'town'" in task.unusable["town"]


def test_names_of_files(save, tmp_path):
    for place in ("north", "south"):
        save(f"{place}/train.jsonl", tickets(4, place))
    task = load_task("table", train=str(tmp_path / "*" / "train.jsonl"))
    assert set(task.train["file"]) == {"north/train", "south/train"}
    (tmp_path / "p.q.CSV").write_text("text\na\nb\nc\n")
    (tmp_path / "r.csv").write_text("text\nd\ne\nf\n")
    task = load_task("table", tmp_path, train=["p.q.CSV", "r.csv"])
    assert set(task.train["file"]) == {"p.q", "r"} and task.attributes == ("file",)


def test_several_files_of_plain_text(save, tmp_path):
    for name in "xy":
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(20)))
    task = load_task("text", tmp_path, train="?.txt")
    assert task.attributes == ("file",) and task.train["file"][:] == ["x"] * 18 + ["y"] * 18
    assert len(task.validation) == 4


def test_lists_and_patterns_that_name_nothing(save, tmp_path):
    path = save("a.jsonl", tickets(4))
    with pytest.raises(DataError, match=r"no file fits the pattern .*x\*.csv"):
        load_task("table", tmp_path, train="x*.csv")
    for name in ("~no.such.user/a.csv", "x" * 5000 + "*"):
        with pytest.raises(DataError, match=r"there is no file|no file fits"):
            load_task("table", train=name)
    with pytest.raises(ConfigError, match="list of train files is empty"):
        load_task("table", train=[])
    with pytest.raises(ConfigError, match=r"the train file .*a.jsonl is given twice"):
        load_task("table", train=[path, path])
    with pytest.raises(DataError, match="too few to hold some out"):
        load_task("table", train=[save(f"{n}.jsonl", tickets(2, n)[:1]) for n in "xy"],
                  kind="text")  # fmt: skip


def test_a_name_with_brackets_is_a_file(save):
    path = save("a[1].jsonl", tickets(20))
    assert len(load_task("table", train=path).train) == 18
