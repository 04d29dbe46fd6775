"""The user's own tables."""

import json

import pytest

from leff.errors import ConfigError, DataError
from leff.tasks.load import load_task

SUFFIXES = ("csv", "jsonl", "parquet")


def save(write, suffix, rows, name="train"):
    if suffix == "csv":
        lines = [",".join(map(json.dumps, map(str, row.values()))) for row in rows]
        return write(f"{name}.csv", "\n".join([",".join(rows[0]), *lines]) + "\n")
    if suffix == "parquet":
        return write(f"{name}.parquet", {k: [row[k] for row in rows] for k in rows[0]})
    return write(f"{name}.jsonl", rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_generation_keeps_references_and_inputs_together(write, suffix):
    rows = [{"mr": f"m{i // 2}", "ref": f"r{i}", "town": "a"} for i in range(20)]
    path = save(write, suffix, rows)
    columns = {"input": "mr", "target": "ref"}
    task = load_task("table", train=path, columns=columns, group="input")
    assert task.kind == "generation"
    assert list(task.train.columns) == ["input", "target", "town"]
    assert task.attributes == ("town",)
    assert len(task.validation) == 1
    assert len(task.validation[0]["references"]) == 2
    assert task.validation[0]["input"] not in task.train["input"][:]
    again = load_task("table", train=path, columns=columns, group="input")
    assert again.validation[:] == task.validation[:]
    apart = load_task("table", train=path, columns=columns).validation
    assert apart["input"] == [task.validation[0]["input"]] * 2
    assert [text for own in apart["references"] for text in own] == task.validation["references"][0]


def test_validation_with_lists_of_references(write):
    train = save(write, "csv", [{"input": "a", "target": "b"}])
    val = write("v.jsonl", [{"input": "a", "references": ["x", "y"]}])
    task = load_task("table", train=train, validation=val, test=val)
    assert task.validation[:] == {"input": ["a"], "references": [["x", "y"]]}
    assert task.test is not None
    bad = write("w.jsonl", [{"input": "a", "references": "x"}])
    with pytest.raises(DataError, match=r"w.jsonl, line 1: references must be a list"):
        load_task("table", train=train, validation=bad)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        (["pos", "neg", "pos"], ("neg", "pos"), [1, 0, 1]),
        ([10, 9, 9], ("9", "10"), [1, 0, 0]),
        ([0, 1, 2], ("0", "1", "2"), [0, 1, 2]),
    ],
)
def test_classes_are_sorted(write, suffix, labels, names, ids):
    rows = [{"review": f"t{i}", "stars": label} for i, label in enumerate(labels)]
    path = save(write, suffix, rows)
    columns = {"text": "review", "label": "stars"}
    task = load_task("table", train=path, validation=path, columns=columns)
    assert (task.kind, task.labels) == ("classification", names)
    assert task.train["label"][:] == ids
    assert task.attributes == ("label",)
    assert "text_pair" not in task.train.columns


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_decimals_make_a_regression_with_bins(write, suffix):
    rows = [{"text": "a", "text_pair": "b", "label": x} for x in (0.0, 0.5, 3.0, 6.0)]
    path = save(write, suffix, rows)
    task = load_task("table", train=path, validation=path)
    assert (task.kind, task.labels) == ("regression", ())
    assert task.train["label"][:] == [0.0, 0.5, 3.0, 6.0]
    assert task.train["label_bin"][:] == [0, 0, 3, 5]
    assert task.train[0]["text_pair"] == "b"


def test_kind_overrules(write):
    rows = [{"text": f"t{n}", "label": n} for n in (1, 2)]
    path = save(write, "csv", rows)
    task = load_task("table", train=path, validation=path, kind="regression")
    assert task.train["label"][:] == [1.0, 2.0]
    assert next(iter(load_task("table", train=path, kind="text").train.columns)) == "text"


def test_a_label_that_train_does_not_have(write):
    train = save(write, "jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    val = save(write, "jsonl", [{"text": "a", "label": "z"}], name="val")
    with pytest.raises(DataError, match=r"val.jsonl, line 1: label 'z' is none of .*: x, y"):
        load_task("table", train=train, validation=val)


def test_a_score_that_is_no_number(write):
    path = write("t.csv", "text,label\na,0.5\nb,nan\n")
    with pytest.raises(DataError, match=r"t.csv, line 3: label 'nan' is not a finite number"):
        load_task("table", train=path)
    path = write("u.csv", "text,label\na,0.5\nb,good\n")
    with pytest.raises(DataError, match=r"u.csv, line 3: label 'good' is not a finite number"):
        load_task("table", train=path, kind="regression")


def test_numbers_with_fractions_are_classes_if_the_kind_says_so(write):
    rows = [{"text": f"t{i}", "label": label} for i, label in enumerate((0.5, 1.0, 1.5, 0.5))]
    path = save(write, "jsonl", rows)
    task = load_task("table", train=path, validation=path, kind="classification")
    assert task.labels == ("0.5", "1", "1.5")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"columns": {"inputs": "a"}}, ConfigError, "'inputs' here; did you mean 'input'"),
        ({"columns": {"text": "c"}}, DataError, r"has no column 'c' \(columns: a, b\)"),
        ({"kind": "generate"}, ConfigError, "'generate'; did you mean 'generation'"),
        ({"kind": "generation"}, DataError, "has no column 'input'"),
        (
            {},
            ConfigError,
            "the columns a, b make no task; .* to instruction and output, or to text",
        ),
        ({"columns": {"text": "a"}}, DataError, "one example, so none can be held out"),
    ],
)
def test_mapping_and_kind_errors(write, options, error, said):
    path = save(write, "csv", [{"a": "1", "b": "2"}])
    with pytest.raises(error, match=said):
        load_task("table", train=path, **options)


def test_no_rows(write):
    with pytest.raises(DataError, match="has no rows"):
        load_task("table", train=write("t.csv", "text,label\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,1\n ,0\n", "line 3: no value in column 'text'"),
        ("text,label\na,1\nb,\n", "line 3: no value in column 'label'"),
        ("text,label,text\na,1,b\n", "line 1: several columns are called 'text'"),
    ],
)
def test_blank_cells_and_repeated_columns_are_refused(tmp_path, text, message):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_task("table", train=path)


def test_the_mapping_decides_the_kind_before_columns_of_our_names(write):
    rows = [{"review": f"r{i}", "stars": i % 2, "input": f"x{i}", "target": "y"} for i in range(20)]
    path = save(write, "csv", rows)
    task = load_task("table", train=path, columns={"text": "review", "label": "stars"})
    assert task.kind == "classification"
    assert load_task("table", train=path).kind == "generation"


def test_the_text_keeps_its_blanks_and_its_form(write):
    rows = [{"text": f" e\u0301 {i} ", "text_pair": " p ", "label": "ab"[i % 2]} for i in range(4)]
    path = save(write, "jsonl", rows)
    task = load_task("table", train=path, validation=path)
    assert task.train[1] == {"text": " e\u0301 1 ", "text_pair": " p ", "label": 1}


TALK = [{"role": "user", "content": "Far?"}, {"role": "assistant", "content": "Two miles."}]


def test_conversations_are_recognised_and_said(write, caplog):
    caplog.set_level("INFO")
    rows = [
        {"messages": [{**TALK[0], "content": f"Far, {i}?"}, TALK[1]], "town": "ab"[i % 2]}
        for i in range(20)
    ]
    task = load_task("table", train=write("train.jsonl", rows))
    assert (task.kind, len(task.train), len(task.validation)) == ("chat", 18, 2)
    assert "conversations, read as messages of a role and a content" in caplog.text
    assert task.attributes == ("town",)
    assert all(len(talk) == 2 for talk in [*task.train["messages"], *task.validation["messages"]])


def test_alpaca_rows_with_an_empty_input_are_examples_of_their_own(write):
    rows = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}"} for i in range(200)]
    task = load_task("table", train=write("train.jsonl", rows))
    assert task.kind == "chat" and len(task.train) == 180 and len(task.validation) == 20
    asked = {talk[0]["content"] for talk in task.train["messages"]}
    assert not asked & {talk[0]["content"] for talk in task.validation["messages"]}
    (split,) = {len(talk) for talk in task.train["messages"]}
    assert split == 2


@pytest.mark.parametrize(
    ("columns", "rows", "kind"),
    [
        ({"messages": "talk"}, [{"talk": TALK}] * 2, "chat"),
        ({"instruction": "q", "output": "a"}, [{"q": "Far?", "a": "No."}] * 2, "chat"),
        ({"input": "prompt", "target": "completion"}, [{"prompt": "a", "completion": "b"}] * 2,
         "generation"),
        ({}, [{"prompt": "a", "completion": "b", "input": "c", "target": "d"}] * 2, "generation"),
    ],
)  # fmt: skip
def test_columns_of_conversations_can_be_mapped(write, columns, rows, kind):
    path = write("train.jsonl", rows)
    task = load_task("table", train=path, validation=path, columns=columns)
    assert task.kind == kind


def test_what_is_only_for_a_table(write):
    with pytest.raises(ConfigError, match="group describe a table"):
        load_task("sample", group="input")
