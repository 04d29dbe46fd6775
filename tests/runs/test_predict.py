"""What a trained classifier says of new texts, and how it is measured on a file of one's own."""

import csv
import json

import pytest
from tiny_runs import options, quicken, save_tiny, write_table
from transformers import pipeline

import leff
from leff.errors import ConfigError, DataError

SMALL = {
    "data.task": "table",
    "training.rounds": 1,
    "training.learning_rate": 0.03,
    "clients.count": 2,
    "clients.partition": "iid",
    "evaluation.gap_clients": 0,
    "context.name": "quantise",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each kind, of a table with columns of other names."""
    root = tmp_path_factory.mktemp("runs")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        for kind in ("classification", "regression", "generation"):
            given = options(save_tiny(root / f"start-{kind}", kind)) | SMALL
            table = write_table(root / f"{kind}.jsonl", kind)
            if kind != "generation":
                table.write_text(table.read_text().replace('"text"', '"ticket"'))
                given["data.columns"] = {"text": "ticket", "label": "label"}
            made[kind] = leff.run(out=root / kind, **given, **{"data.train": str(table)})
    return made


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("ticket,site\nwalk by the fen,a\nwalk by the moor and the hill,b\n")
    return path


def test_a_class_by_its_name_as_a_pipeline_says_it(runs, texts, cli):
    made = runs["classification"]
    status, printed, _ = cli("predict", made.folder, texts, "--json")
    answers = json.loads(printed)
    assert (
        status == 0
        and [list(a) for a in answers] == [["ticket", "site", "label", "probability"]] * 2
    )
    wanted = pipeline("text-classification", str(made.model))([a["ticket"] for a in answers])
    assert [a["label"] for a in answers] == [each["label"] for each in wanted]
    for answer, each in zip(answers, wanted, strict=True):
        assert answer["probability"] == pytest.approx(each["score"], abs=1e-5)
    assert leff.predict(made.model, ["walk by the fen"])[0]["label"] == answers[0]["label"]


def test_a_score(runs, texts, cli):
    status, printed, _ = cli("predict", runs["regression"].folder, texts)
    assert status == 0 and len(printed.splitlines()) == 2
    number, text = printed.splitlines()[0].split("\t")
    (answer,) = leff.predict(runs["regression"].folder, ["walk by the fen"])
    assert text == "walk by the fen" and float(number) == pytest.approx(answer["score"], abs=1e-4)


def test_a_file_of_answers(runs, texts, cli, tmp_path):
    out = tmp_path / "answers.csv"
    status, printed, _ = cli("predict", runs["classification"].folder, texts, "--out", out)
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert status == 0 and not printed and rows[0]["ticket"] == "walk by the fen"
    assert {row["label"] for row in rows} <= {"flat", "steep", "wet"}


def test_measured_on_a_table_of_ones_own(runs, tmp_path, cli):
    made, table = runs["classification"], tmp_path / "labelled.csv"
    tickets = [f"walk {i} by the fen" for i in range(6)]
    labels = ["wet", "flat ", "flat", "steep", "wet", "wet"]
    lines = [f"{text},{label}" for text, label in zip(tickets, labels, strict=True)]
    table.write_text("\n".join(["ticket,label", *lines]))
    measured = leff.evaluate(made.folder, data=table)
    right = [
        answer["label"] == label.strip()
        for answer, label in zip(leff.predict(made.folder, tickets), labels, strict=True)
    ]
    assert measured["metrics"]["accuracy"] == pytest.approx(sum(right) / 6)
    assert (measured["split"], measured["examples"]) == ("test", 6)
    status, printed, _ = cli("evaluate", made.folder, "--data", table, "--json")
    assert status == 0 and json.loads(printed)["metrics"] == measured["metrics"]


def test_generation_on_a_table_of_ones_own(runs, tmp_path):
    table = write_table(tmp_path / "more.jsonl", "generation", rows=4)
    measured = leff.evaluate(runs["generation"].folder, data=table)
    assert measured["examples"] == 4 and "BLEU" in measured["metrics"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("ticket,label\na walk,dry\n", r"label 'dry' is none of the classes"),
        ("ticket\na walk\n", "has no column 'label'"),
        ("text,label\na walk,wet\n", "has no column 'ticket'"),
        ("ticket,label\n", "no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(runs, tmp_path, content, problem):
    table = tmp_path / "bad.csv"
    table.write_text(content)
    with pytest.raises(DataError, match=problem):
        leff.evaluate(runs["classification"].folder, data=table)


def test_wrong_use(runs, texts, tmp_path, cli):
    made = runs["classification"]
    with pytest.raises(ConfigError, match="generates text; use `leff generate`"):
        leff.predict(runs["generation"].folder, ["a"])
    with pytest.raises(ConfigError, match="must be a list of texts"):
        leff.predict(made.folder, "a")
    with pytest.raises(ConfigError, match="a pair for each text, got 1 and 2"):
        leff.predict(made.folder, ["a", "b"], ["c"])
    status, _, said = cli("predict", made.folder, texts, "--out", tmp_path / "a.xlsx")
    assert status == 2 and "--out must end in .csv and be in a folder" in said
    (tmp_path / "bad.csv").write_text("text\na\n")
    status, _, said = cli("predict", made.folder, tmp_path / "bad.csv")
    assert status == 2 and "has no column 'ticket'" in said


def test_the_models_folder_stands_for_its_run(runs, texts, cli):
    made = runs["classification"]
    assert cli("predict", made.model, texts)[:2] == cli("predict", made.folder, texts)[:2]


def test_a_file_that_has_labels_keeps_its_columns(runs, tmp_path, cli):
    (tmp_path / "old.csv").write_text("id,ticket,label\n7,walk by the fen,dry\n")
    folder = runs["classification"].folder
    _, printed, _ = cli("predict", folder, tmp_path / "old.csv", "--json")
    (row,) = json.loads(printed)
    assert list(row) == ["id", "ticket", "label", "predicted_label", "probability"]
    assert (row["id"], row["label"]) == ("7", "dry")


@pytest.mark.parametrize("model", ["encoder", "generation"])
def test_what_is_no_trained_classifier_is_refused(runs, tmp_path, texts, cli, model):
    from transformers import BertConfig, BertModel

    path = runs["generation"].folder
    if model == "encoder":
        path = runs["classification"].model.parent.parent / "encoder"
        config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
        BertModel(config).save_pretrained(path)
    status, printed, said = cli("predict", path, texts)
    assert status == 2 and not printed
    assert "no trained classifier" in said or "generates text; use `leff generate`" in said


def test_texts_are_looked_at_before_the_model_is(runs):
    folder = runs["classification"].folder
    assert leff.predict(folder, []) == []
    assert len(leff.predict(folder, (text for text in ["a", "b"]))) == 2
    for wrong in ([1], [None]):
        with pytest.raises(ConfigError, match="texts must be texts, got"):
            leff.predict(folder, wrong)
        with pytest.raises(ConfigError, match="inputs must be texts, got"):
            leff.generate(runs["generation"].folder, wrong)
    with pytest.raises(ConfigError, match="config must be a file or a RunConfig"):
        leff.run({"a": 1})


def test_an_empty_input_needs_a_prompt(tmp_path):
    with pytest.raises(ConfigError, match="an input is empty"):
        leff.generate(save_tiny(tmp_path), ["a", ""], max_new_tokens=2)


def test_the_card_may_be_edited(runs, tmp_path):
    import shutil

    folder = shutil.copytree(runs["classification"].folder, tmp_path / "run")
    with (folder / "model" / "README.md").open("a") as card:
        card.write("A note.\n")
    assert leff.resume(folder).result == runs["classification"].result
