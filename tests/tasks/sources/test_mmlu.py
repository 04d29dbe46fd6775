"""MMLU from files and from the hub, and its prompts to the letter."""

import os
from pathlib import Path

import pytest
from tiny_mmlu import SPLITS, SUBJECTS, write_mmlu

from leff.errors import ConfigError, DataError
from leff.tasks.load import load_task
from leff.tasks.metrics.mmlu import CATEGORIES
from leff.tasks.sources.mmlu import load_test, with_shots

INPUT = """The following are multiple choice questions (with answers) about  abstract algebra.

Asked 1 of 16?
A. a1
B. b1
C. c1
D. d1
Answer:"""
TWO_SHOTS = """The following are multiple choice questions (with answers) about  abstract algebra.

Shot 0 of 16?
A. a0
B. b0
C. c0
D. d0
Answer: A

Shot 1 of 16?
A. a1
B. b1
C. c1
D. d1
Answer: B

Asked 1 of 16?
A. a1
B. b1
C. c1
D. d1
Answer:"""
REAL = os.environ.get("LEFF_DATA")


def on_hub(table):
    """The hub's columns: choices in a list, answers by number."""
    choices = [list(four) for four in zip(*(table[a] for a in "ABCD"), strict=True)]
    answers = ["ABCD".index(answer) for answer in table["answer"]]
    kept = {name: table[name] for name in ("subject", "question")}
    return {**kept, "choices": choices, "answer": answers}


def check(task, attributes=("subject",)):
    assert task.kind == "generation" and task.attributes == attributes
    row = task.test[1]
    assert row == {"input": INPUT, "references": ["B"], "subject": "abstract_algebra"}
    assert with_shots(row["input"], row["subject"], task.shots[row["subject"]][:2]) == TWO_SHOTS
    assert [len(task.shots[subject]) for subject in SUBJECTS] == [5, 5]
    assert task.validation["references"][:5] == [["A"], ["B"], ["C"], ["D"], ["A"]]


@pytest.mark.parametrize("inside", ["", "mmlu"])
def test_a_folder_trains_on_val(tmp_path, inside):
    task = load_task("mmlu", write_mmlu(tmp_path) / inside)
    check(task)
    assert task.train["input"][:] == task.validation["input"][:]
    assert task.train[3]["target"] == "D" and task.train[9]["subject"] == "virology"


def test_a_folder_with_auxiliary_train(tmp_path, write):
    write_mmlu(tmp_path)
    with pytest.raises(DataError, match=r"mmlu_auxiliary.*train: auxiliary_train.parquet"):
        load_task("mmlu_auxiliary", tmp_path)
    write("mmlu/auxiliary_train.parquet", SPLITS["test"])
    assert load_task("mmlu", tmp_path).train["subject"][9] == "virology"
    task = load_task("mmlu_auxiliary", tmp_path)
    assert len(task.train) == 5 and list(task.train.columns) == ["input", "target"]
    check(task, attributes=())


def test_hub(hub):
    extra = {**on_hub(SPLITS["test"]), "subject": [""] * 5}
    splits = {"validation": SPLITS["val"], "dev": SPLITS["dev"], "test": SPLITS["test"]}
    calls = hub(
        {"auxiliary_train": extra, **{name: on_hub(table) for name, table in splits.items()}}
    )
    same = load_task("mmlu")
    assert calls[0][0] == ("cais/mmlu", "all")
    check(same)
    assert same.train["input"][:] == same.validation["input"][:]
    assert same.train[9]["subject"] == "virology"
    task = load_task("mmlu_auxiliary")
    check(task, attributes=())
    head = "The following are multiple choice questions (with answers).\n\nAsked 0 of 16?\nA. a0"
    assert task.train[0]["input"].startswith(head)
    assert task.train[0]["target"] == "A"
    questions, shots = load_test()
    assert questions[:] == task.test[:] and shots == task.shots


def test_repeated_questions_all_count(tmp_path, write):
    write_mmlu(tmp_path)
    twice = {name: values * 2 for name, values in SPLITS["test"].items()}
    write("mmlu/test.parquet", twice)
    assert len(load_task("mmlu", tmp_path).test) == 10


def test_no_test_file_is_fine_for_training_only(tmp_path):
    write_mmlu(tmp_path, leave_out="test")
    assert load_task("mmlu", tmp_path).test is None
    with pytest.raises(DataError, match=r"mmlu has no test.parquet"):
        load_test(tmp_path)


def test_missing_files(tmp_path):
    write_mmlu(tmp_path, leave_out="dev")
    with pytest.raises(DataError, match=r"mmlu has no dev.parquet, the worked examples"):
        load_task("mmlu", tmp_path)
    with pytest.raises(DataError, match=r"looked in .*empty/mmlu.* for .*val.parquet"):
        load_test(tmp_path / "empty")


@pytest.mark.parametrize(
    ("split", "change", "said"),
    [
        ("test", {"answer": list("ABCED")}, r"test.parquet, row 4: answer 'E' is none of A to D"),
        ("val", {"C": None}, r"val.parquet has no column 'C'"),
        ("test", {"subject": ["x"] * 5}, r"row 1: subject 'x' needs 5 worked examples.* has 0"),
        ("test", {"B": [None] * 5}, r"row 1: no value in column 'B'"),
    ],
)
def test_bad_rows_are_named(tmp_path, write, split, change, said):
    write_mmlu(tmp_path)
    table = {**SPLITS[split], **change}
    write(f"mmlu/{split}.parquet", {k: v for k, v in table.items() if v is not None})
    with pytest.raises(DataError, match=said):
        load_task("mmlu", tmp_path)


def test_three_choices_are_refused(hub):
    table = on_hub(SPLITS["test"])
    table["choices"][2] = ["a", "b", "c"]
    hub({"validation": table, "dev": on_hub(SPLITS["dev"]), "test": table})
    with pytest.raises(DataError, match=r"cais/mmlu/.*, row 3: choices must be four texts"):
        load_test()


def test_subjects_and_examples(tmp_path):
    write_mmlu(tmp_path)
    questions, _ = load_test(tmp_path, ["virology"])
    assert set(questions["subject"]) == {"virology"} and len(questions) == 2
    questions, _ = load_test(tmp_path, examples=1)
    assert sorted(questions["subject"]) == sorted(SUBJECTS)
    assert load_test(tmp_path, ["virology"], 1)[0][0] in list(questions)
    with pytest.raises(ConfigError, match=r"no subject 'virolgy'; did you mean 'virology'"):
        load_test(tmp_path, ["virolgy"])


@pytest.mark.skipif(
    not Path(REAL or "", "mmlu").is_dir() or not REAL,
    reason="LEFF_DATA does not name a folder that has mmlu",
)
def test_real_data():
    task = load_task("mmlu", Path(REAL or ""))
    assert (len(task.validation), task.test and len(task.test)) == (1529, 14042)
    assert {len(shots) for shots in task.shots.values()} == {5}
    listed = [subject for subjects in CATEGORIES.values() for subject in subjects]
    assert sorted(listed) == sorted(task.shots) and len(listed) == 57
    assert load_test(Path(REAL or ""))[0][:3] == (task.test and task.test[:3])
