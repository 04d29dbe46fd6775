"""Copies of a text are never both trained on and measured on."""

import json

import pytest

from leff.errors import DataError
from leff.tasks.load import load_task


@pytest.fixture
def save(tmp_path):
    def _save(name, rows):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    return _save


def tickets(count, copies=1, **more):
    return [
        {"text": f"t{i // copies}", "label": "ab"[i // copies % 2], **more} for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["classification", "regression", "text"])
def test_copies_stay_together_and_are_said(save, caplog, kind):
    caplog.set_level("INFO")
    rows = tickets(200, copies=5)
    if kind == "regression":
        rows = [{**row, "label": i / 8} for i, row in enumerate(rows)]
    path = save("a.jsonl", [{**row, "text": row["text"] + " " * (i % 2)}
                            for i, row in enumerate(rows)])  # fmt: skip
    for seed in range(5):
        task = load_task("table", train=path, kind=kind, seed=seed)
        held = {text.strip() for text in task.validation["text"]}
        assert len(held) == 4 and not held & {text.strip() for text in task.train["text"]}
    assert "a.jsonl: 160 of 200 rows have the same text as another; copies stay" in caplog.text


def test_a_pair_is_a_copy_only_with_its_second_text(save):
    rows = [{**row, "text_pair": f"p{i % 5}"} for i, row in enumerate(tickets(200, copies=5))]
    task = load_task("table", train=save("a.jsonl", rows))
    assert len(task.validation) == 20


def test_lines_of_plain_text(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"line {i % 20}\n" for i in range(100)))
    task = load_task("text", train=tmp_path / "a.txt")
    assert len(task.validation) == 10
    assert not set(task.validation["text"]) & set(task.train["text"])


def test_what_is_drawn_does_not_change_where_nothing_repeats(save):
    rows = tickets(50)
    task = load_task("table", train=save("a.jsonl", rows))
    assert task.validation["text"][:] == ["t2", "t4", "t18", "t23", "t36"]  # as a plain draw


def test_rows_that_validation_and_test_share_with_train_are_counted(save, caplog):
    train, other = save("a.jsonl", tickets(20)), save("b.jsonl", tickets(30)[17:])
    load_task("table", train=train, validation=other, test=other)
    said = "b.jsonl: 3 of 13 texts are in the train data too"
    assert caplog.text.count(said) == 2 and "b.jsonl, line 1)" in caplog.text
    lines = save("c.txt", [1, 2, 3])
    load_task("text", train=lines, validation=lines)
    assert "c.txt: 3 of 3 texts are in the train data too" in caplog.text
    pairs = save("d.jsonl", [{"input": f"i{i}", "target": "t"} for i in range(5)])
    load_task("table", train=pairs, validation=pairs)
    assert "d.jsonl: 5 of 5 texts are in the train data too" in caplog.text


def test_texts_with_several_labels_are_counted(save, caplog):
    rows = [*tickets(20), {"text": "t3", "label": "a"}, {"text": "t4 ", "label": "b"},
            {"text": "t4", "label": "b"}]  # fmt: skip
    load_task("table", train=save("a.jsonl", rows))
    assert "a.jsonl: texts with more than one label: 2 (the first: " in caplog.text
    assert "a.jsonl, line 21)" in caplog.text


def test_a_class_keeps_its_last_text_in_training(save):
    rows = [*tickets(40), {"text": "only", "label": "rare"}]
    for seed in range(40):
        task = load_task("table", train=save("a.jsonl", rows), seed=seed)
        assert set(task.train["label"]) == {0, 1, 2}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*tickets(10, copies=10), {"text": "t0", "label": "b"}], "all rows have the same text"),
        (tickets(20, copies=10), "2 different texts are too few to hold some out"),
    ],
)
def test_nothing_that_can_be_held_out(save, rows, said):
    with pytest.raises(DataError, match=f"a.jsonl: {said}.*; name a validation file"):
        load_task("table", train=save("a.jsonl", rows))
