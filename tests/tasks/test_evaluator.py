"""Evaluation against scikit-learn, torch and the metrics themselves."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from tiny_runs import save_tiny, write_table

from leff.models import load_model
from leff.tasks.chat_form import chat_form
from leff.tasks.columns import Table
from leff.tasks.evaluator import Evaluator
from leff.tasks.generation import generate
from leff.tasks.load import load_task
from leff.tasks.metrics import nlg
from leff.tasks.task import draw_rows
from leff.tasks.text_form import USUAL, TextForm


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)


def load(tmp_path, kind):
    task = load_task("table", train=write_table(tmp_path / "t.jsonl", kind, rows=80))
    model, tokenizer = load_model(save_tiny(tmp_path / "model", kind), kind, task.labels)
    return task, model, tokenizer


def logits(model, tokenizer, texts):
    batch = tokenizer(list(texts), padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        return model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_classification(tmp_path):
    task, model, tokenizer = load(tmp_path, "classification")
    evaluator = Evaluator(task, tokenizer, 32, batch_size=3)
    assert evaluator.metric == "accuracy"
    rows = task.validation
    wanted = logits(model, tokenizer, rows["text"])
    guesses, labels = wanted.argmax(-1).tolist(), rows["label"][:]
    found = evaluator.full(model, None)
    assert found["split"] == "validation" and found["examples"] == len(rows) == 8
    counts = confusion_matrix(labels, guesses, labels=range(len(task.labels))).tolist()
    assert [list(row.values()) for row in found["confusion"].values()] == counts
    assert [*found["confusion"]] == list(task.labels)
    assert found["metrics"] == pytest.approx(
        {
            "accuracy": accuracy_score(labels, guesses),
            "macro_f1": f1_score(labels, guesses, average="macro"),
        }
    )
    loss = torch.nn.functional.cross_entropy(wanted, torch.tensor(labels))
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    drawn = draw_rows(rows, 4, 0, "validation")
    guesses = logits(model, tokenizer, drawn["text"]).argmax(-1).tolist()
    quick = evaluator.quick(model, 4)
    assert quick["metric"] == pytest.approx(accuracy_score(drawn["label"][:], guesses))


def test_regression(tmp_path):
    task, model, tokenizer = load(tmp_path, "regression")
    model = model.double()  # guesses of an untrained head differ little, and padding rounds them
    evaluator = Evaluator(task, tokenizer, 32, batch_size=5)
    assert evaluator.metric == "pearson"
    guesses = logits(model, tokenizer, task.validation["text"])[:, 0]
    labels = task.validation["label"][:]
    found = evaluator.full(model, None)
    mse = float(((guesses - torch.tensor(labels)) ** 2).mean())
    assert found["metrics"]["pearson"] == pytest.approx(pearsonr(guesses, labels)[0], abs=1e-5)
    assert found["metrics"]["mse"] == pytest.approx(mse, rel=1e-5)
    assert found["loss"] == pytest.approx(mse, rel=1e-5)


def test_text(tmp_path):
    task, model, tokenizer = load(tmp_path, "text")
    evaluator = Evaluator(task, tokenizer, 16)
    found = evaluator.full(model, 5)
    assert evaluator.metric == "perplexity"
    assert found["metrics"]["perplexity"] == pytest.approx(math.exp(found["loss"]))
    rows = draw_rows(task.validation, 5, 0, "validation")
    ids = [i for t in rows["text"] for i in (*tokenizer(t)["input_ids"], 0)]
    total = count = 0.0
    for start in range(0, len(ids), 16):
        chunk = torch.tensor([ids[start : start + 16]])
        if chunk.shape[1] > 1:
            with torch.no_grad():
                total += float(model(chunk, labels=chunk).loss) * (chunk.shape[1] - 1)
            count += chunk.shape[1] - 1
    assert found["loss"] == pytest.approx(total / count, rel=1e-5)


def test_generation(tmp_path):
    task, model, tokenizer = load(tmp_path, "generation")
    evaluator = Evaluator(task, tokenizer, 32, batch_size=3, max_new_tokens=5)
    assert evaluator.metric == "BLEU"
    found = evaluator.full(model, 4, beams=2)
    rows = draw_rows(task.validation, 4, 0, "validation")
    texts = generate(model, tokenizer, rows["input"], max_new_tokens=5, beams=2, max_length=32)
    assert [row["output"] for row in found["texts"]] == texts
    assert [row["references"] for row in found["texts"]] == list(rows["references"])
    assert found["metrics"] == nlg.score(rows["references"], texts).values
    assert found["metrics"]["METEOR"] is None and "METEOR" in found["notes"]
    assert evaluator.quick(model, 4)["loss"] == pytest.approx(found["loss"], rel=1e-6)


def test_the_test_split_is_taken_where_there_is_one(tmp_path):
    task, model, tokenizer = load(tmp_path, "classification")
    other = type(task)(**{**vars(task), "test": Table({"text": ["a"] * 3, "label": [0, 1, 2]})})
    found = Evaluator(other, tokenizer, 32).full(model, None)
    assert (found["split"], found["examples"]) == ("test", 3)


def test_the_tasks_of_glue_have_their_own_metric(tmp_path):
    task, model, tokenizer = load(tmp_path, "classification")
    for name, metric in (("cola", "matthews"), ("mrpc", "accuracy"), ("sst2", "accuracy")):
        named = Evaluator(type(task)(**{**vars(task), "name": name}), tokenizer, 32)
        assert named.metric == metric and metric in named.full(model, 4)["metrics"]


def test_rows_are_encoded_once(tmp_path, monkeypatch):
    task, model, tokenizer = load(tmp_path, "generation")
    evaluator = Evaluator(task, tokenizer, 32, max_new_tokens=2)
    first = evaluator.quick(model, 3)
    monkeypatch.setattr("leff.tasks.evaluator.encode", lambda *_: pytest.fail("encoded again"))
    assert evaluator.quick(model, 3) == first


@pytest.mark.parametrize("kind", ["generation", "chat"])
def test_a_rounds_texts_are_those_of_the_first_examples(tmp_path, kind):
    task, model, tokenizer = load(tmp_path, kind)
    form = TextForm(chat=chat_form(tokenizer)) if kind == "chat" else USUAL
    evaluator = Evaluator(replace(task, test=None), tokenizer, 32, max_new_tokens=4, form=form)
    all_of_them = evaluator.full(model, 4)["texts"]
    found = evaluator.quick(model, 4, texts=2)
    assert found["texts"] == all_of_them[:2] and len(all_of_them) == 4
    assert evaluator.quick(model, 4)["texts"] == []
    assert found["loss"] == pytest.approx(evaluator.full(model, 4)["loss"], rel=1e-6)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_diverged_model_is_measured_as_not_a_number(tmp_path, kind):
    task, model, tokenizer = load(tmp_path, kind)
    with torch.no_grad():
        model.classifier.bias.fill_(torch.nan)
    found = Evaluator(task, tokenizer, 32).quick(model, 4)
    assert math.isnan(found["loss"]) and math.isnan(found["metric"])
