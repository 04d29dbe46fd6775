"""Several classes a row, from the file to predictions."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from small_rounds import CPU, PAD, random_examples
from tiny_models import tiny
from tiny_runs import options, outcome, save_tiny, write_table

import leff
from leff.client.measure import measure
from leff.errors import ConfigError, DataError
from leff.methods.importance import layer_scores
from leff.methods.jobs import JobWriter, measure_jobs
from leff.models.load import load_model
from leff.tasks.load import load_task
from leff.tasks.metrics.glue import score_labels
from leff.tasks.metrics.sums import figures
from leff.wire.checks import ExpectedMeasure, checked_measure

pytestmark = pytest.mark.usefixtures("quick_runs")
NAMES = ("flat", "steep", "wet")


@pytest.fixture
def save(tmp_path):
    def saved(name, rows):
        path = tmp_path / name
        if name.endswith(".csv"):
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("text", "labels"), *enumerate(rows)])
        else:
            lines = (json.dumps({"text": f"t{i}", "labels": row}) for i, row in enumerate(rows))
            path.write_text("\n".join(lines))
        return path

    return saved


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.jsonl", [["b", " a "], [], ["c", "c"], "a|b", "c;a", ["b"]] * 3),
        ("a.csv", ["b|a", "[]", "c", '["a", "b"]', "c; a", "['b']"] * 3),
    ],
)
def test_labels_are_lists_or_names_with_bars(save, name, rows):
    task = load_task("table", train=save(name, rows), validation=save(name, rows))
    assert task.kind == "multilabel" and task.labels == ("a", "b", "c")
    wanted = [(1, 1, 0), (0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 0)] * 3
    assert list(task.train["label"]) == wanted
    # a and b are in nine rows each, c in six
    assert task.train["rarest_label"] == ["a", "none", "c", "a", "c", "b"] * 3
    assert task.attributes[0] == "rarest_label"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["a"], None], r"line 2: no value in column 'labels'; write \[\] if the row has no class"),
        ([["a"], ""], "line 2: no value in column 'labels'"),
        ([["a"], ["b", {"c": 1}]], "line 2: labels .* must be names of classes"),
        ([["a"], ["b", " "]], "line 2: labels .* must be names of classes"),
        (["a", "[b"], r"line 2: labels '\[b' is no list"),
        ([["a"], [], ["a"]], "has only the class 'a'; a classifier needs two classes"),
        ([[], []], "has no class; a classifier needs two classes"),
    ],
)
def test_what_cannot_be_used_is_named(save, rows, said):
    with pytest.raises(DataError, match=said):
        load_task("table", train=save("a.jsonl", rows))


def test_a_class_that_training_never_saw_is_named(save):
    train, test = save("a.jsonl", [["a"], ["b"]] * 9), save("b.jsonl", [["a"], ["b", "new"]])
    with pytest.raises(DataError, match=r"b\.jsonl, line 2: label 'new' is none of the classes"):
        load_task("table", train=train, test=test)
    task = load_task("table", train=train, test=test, labels=("a", "b", "new"))
    assert task.kind == "multilabel" and list(task.test["label"]) == [(1, 0, 0), (0, 1, 1)]
    with pytest.raises(ConfigError, match="name classes, and the kind is 'regression'"):
        load_task("table", train=train, kind="regression", labels=("a", "b"))


def test_the_devices_counts_give_the_server_s_metrics(store):
    model, examples = tiny("bert", "multilabel"), random_examples("multilabel", 30)
    (job,) = measure_jobs(JobWriter(store, "multilabel", PAD), model, 1, [0], 32, 4)
    found = measure(job, store.get, examples, CPU)
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor(e.input_ids)[None].long()).logits for e in examples])
    labels = np.array([example.label for example in examples])
    metrics = score_labels("multilabel", (logits > 0).int().numpy(), labels)
    ours = figures("multilabel", found, 2)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels))
    assert ours["loss"] == pytest.approx(float(loss), rel=1e-5)
    for name in ("micro_f1", "macro_f1", "label_accuracy"):
        assert ours[name] == pytest.approx(metrics[name])
    assert 0 < metrics["exact_match"] < metrics["label_accuracy"] < 1
    expected = ExpectedMeasure(1, 0, "multilabel", 30, 2, 30 * 12)
    assert checked_measure(found, expected).failure is None
    for rows, said in (
        (found.confusion[:1], "confusion must have 2 rows"),
        ([row[:3] for row in found.confusion], "confusion must have 4 counts in each row"),
        ([(31, -1, 0, 0)] * 2, "confusion must have 4 counts in each row"),
        ([(30, 1, 0, 0), found.confusion[1]], "confusion counts 31 examples, not 30"),
    ):
        wrong = type(found)(**{**vars(found), "confusion": tuple(map(tuple, rows))})
        assert checked_measure(wrong, expected).failure == said


def test_metrics_of_hand_made_answers():
    labels, answers = [[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    found = score_labels("multilabel", answers, labels)
    f1 = (2 / 3, 2 / 3)  # the third class never occurs
    assert found["micro_f1"] == pytest.approx(4 / 6) and found["macro_f1"] == pytest.approx(
        sum(f1) / 2
    )
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["label_accuracy"] == pytest.approx(7 / 9)
    nothing = score_labels("multilabel", [[0, 0]], [[0, 0]])
    assert nothing["micro_f1"] == nothing["macro_f1"] == 0.0 and nothing["exact_match"] == 1.0
    with pytest.raises(DataError, match="give as many of each"):
        score_labels("multilabel", [[0, 1]], [[0, 1], [1, 1]])


def test_importance_draws_each_class_by_itself():
    """With a head that is sure of all classes, the drawn labels are the answers: no gradient."""
    model = tiny("bert", "multilabel")
    batch = {"input_ids": torch.randint(5, 50, (4, 8))}
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.fill_(60.0)
    assert not layer_scores(model, [batch], seed=0).any()
    with torch.no_grad():
        model.classifier.weight.normal_()
        model.classifier.bias.zero_()
    assert (layer_scores(model, [batch], seed=0) > 0).all()


@pytest.fixture
def settings(tmp_path):
    rows = write_table(tmp_path / "train.jsonl", "multilabel", 48)
    return options(
        save_tiny(tmp_path / "model", "multilabel"),
        data__task="table",
        data__train=str(rows),
        data__test=str(write_table(tmp_path / "test.jsonl", "multilabel", 16)),
        evaluation__where="both",
        evaluation__final_examples=16,
        training__rounds=2,
    )


@pytest.mark.parametrize("method", ["leff", "fedlora"])
def test_a_run_predicts_several_classes_a_text(settings, method, tmp_path):
    run = leff.run(out=tmp_path / "run", **{**settings, "method.name": method})
    assert run.result["metric"] == "micro_f1" and set(run.after) >= {"exact_match", "macro_f1"}
    assert run.after["label_accuracy"] > 0 and math.isfinite(run.result["after"]["loss"])
    counts = run.result["after"]["confusion"]
    assert list(counts) == list(NAMES) and set(counts["wet"]) == {"right", "missed", "wrong"}
    assert sum(counts["flat"][what] for what in ("right", "missed")) == 8
    assert run.records()[-1].devices["metrics"].keys() >= {"micro_f1", "label_accuracy"}
    said = (run.model / "README.md").read_text()
    assert 'print(model("a text", top_k=None))' in said and "above .5: flat, steep, wet." in said
    model, _ = load_model(run.model, "multilabel")
    assert model.config.problem_type == "multi_label_classification"
    answers = leff.predict(run.folder, ["walk 1 by the fen"])
    shares = answers[0]["probabilities"]
    assert list(shares) == list(NAMES) and all(0 < share < 1 for share in shares.values())
    assert answers[0]["labels"] == [name for name, share in shares.items() if share > 0.5]


def test_an_interrupted_run_goes_on_to_the_same_bits(settings, tmp_path, monkeypatch):
    whole = leff.run(out=tmp_path / "whole", **settings)

    class Stop:
        def __getattr__(self, _):
            return lambda *_: None

        def measured(self, record):
            if record.round == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leff.run(out=tmp_path / "run", progress=Stop(), **settings)
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole.folder)


def test_predictions_as_a_table(settings, tmp_path, capsys, monkeypatch):
    from leff.cli import main

    run = leff.run(out=tmp_path / "run", **{**settings, "training.rounds": 1})

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["leff", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    file = tmp_path / "test.jsonl"
    command("predict", run.folder, file, "--out", tmp_path / "said.csv")
    with (tmp_path / "said.csv").open(newline="") as written:
        rows = list(csv.DictReader(written))
    answers = leff.predict(run.folder, [row["text"] for row in rows])
    said = ["|".join(answer["labels"]) or "[]" for answer in answers]
    assert [row["predicted_labels"] for row in rows] == said
    assert rows[3]["labels"] == "flat|steep" and "steep=0." in rows[0]["probabilities"]
    assert f"{said[0]}\t" in command("predict", run.folder, file)
