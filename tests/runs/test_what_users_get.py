"""What a run leaves for its user: names of classes, the prompt, the card, a model to go on from."""

import json

import pytest
from tiny_runs import options, save_tiny, write_table
from transformers import AutoTokenizer, pipeline

import leff
from leff.errors import ConfigError
from leff.models import load_model
from leff.runs.federation import Federation
from leff.tasks.sources.sample import MODEL

SMALL = {
    "data__task": "table",
    "training__rounds": 1,
    "clients__count": 2,
    "clients__partition": "dirichlet",
    "evaluation__gap_clients": 0,
    "context__name": "quantise",
}


@pytest.fixture
def run(tmp_path, quick_runs):
    def started(kind, name="run", model=None, **changes):
        table = write_table(tmp_path / f"{kind}.jsonl", kind)
        model = model or save_tiny(tmp_path / f"start-{kind}", kind)
        given = options(model, **(SMALL | {"data__train": str(table)} | changes))
        return leff.run(out=tmp_path / name, **given)

    return started


def test_class_names_reach_config_split_result_and_pipeline(run):
    made = run("classification")
    assert json.loads((made.model / "config.json").read_text())["id2label"] == {
        "0": "flat",
        "1": "steep",
        "2": "wet",
    }
    assert made.result["labels"] == ["flat", "steep", "wet"]
    split = json.loads((made.folder / "split.json").read_text())
    assert {name for client in split for name in client["values"]} == {"flat", "steep", "wet"}
    answer = pipeline("text-classification", str(made.model))("walk by the fen")
    assert answer[0]["label"] in made.result["labels"]
    assert "Its classes are: flat, steep, wet." in (made.model / "README.md").read_text()


def test_a_run_goes_on_from_a_run_with_its_classes_in_another_order(run, tmp_path, caplog):
    first = run("classification", training__learning_rate=0.05, training__rounds=2)
    lines = (tmp_path / "classification.jsonl").read_text().splitlines()
    renamed = {"flat": "z flat", "steep": "steep", "wet": "a wet"}
    model, tokenizer = load_model(first.model, "classification")
    model.config.id2label = {row: renamed[n] for row, n in model.config.id2label.items()}
    model.config.label2id = {n: row for row, n in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "renamed")
    tokenizer.save_pretrained(tmp_path / "renamed")
    table = tmp_path / "renamed.jsonl"
    rows = [json.loads(line) for line in lines]
    named = [row | {"label": renamed[row["label"]]} for row in rows]
    table.write_text("".join(json.dumps(row) + "\n" for row in named))
    caplog.clear()
    again = run("classification", "again", tmp_path / "renamed", data__train=str(table))
    assert again.result["labels"] == ["a wet", "steep", "z flat"]
    losses = again.result["before"]["loss"], first.result["after"]["loss"]
    assert (
        losses[0] == pytest.approx(losses[1], rel=1e-5)
        and losses[0] < first.result["before"]["loss"]
    )
    assert "its head is made new" not in caplog.text


def test_the_prompt_travels_with_the_model(run):
    made = run("generation", data__prompt="Describe: {input}\nAnswer:")
    tokenizer = AutoTokenizer.from_pretrained(made.model)
    chat = [{"role": "user", "content": "place: fen 5"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False)
    assert rendered == "Describe: place: fen 5\nAnswer:"
    written = leff.generate(made.folder, ["place: fen 5"], max_new_tokens=5)
    assert written == leff.generate(made.model, ["place: fen 5"], max_new_tokens=5)
    assert written == leff.generate(made.model, [rendered], max_new_tokens=5, prompt="{input}")
    (answer,) = pipeline("text-generation", str(made.model))(
        [chat], max_new_tokens=5, do_sample=False
    )
    assert answer[0]["generated_text"][-1]["content"].strip() == written[0]
    again = run("generation", "again", made.folder)
    assert json.loads((again.model / "tokenizer_config.json").read_text()) == json.loads(
        (made.model / "tokenizer_config.json").read_text()
    )
    assert r"Describe: {input}\nAnswer:" in (again.model / "README.md").read_text()
    card = (made.model / "README.md").read_text()
    assert r"Describe: {input}\nAnswer:" in card and "pipeline_tag: text-generation" in card


@pytest.mark.parametrize("kind", ["text", "classification"])
def test_no_chat_template_of_another_form_is_kept(run, tmp_path, kind, caplog):
    start = save_tiny(tmp_path / "start", kind)
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    tokenizer.save_pretrained(start)
    more = {"clients__partition": "iid"} if kind == "text" else {}
    made = run(kind, model=start, **more)
    assert AutoTokenizer.from_pretrained(made.model).chat_template is None
    assert "chat template is not what it is trained with" in caplog.text


def test_the_card_can_be_run(run, tmp_path, monkeypatch):
    made = run("classification")
    code = (made.model / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(made.model)
    exec(compile(code, "README.md", "exec"), {})


def test_a_run_that_has_no_model_yet_names_the_remedy(tmp_path, run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Federation, "_finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("classification", "unfinished")
    with pytest.raises(ConfigError, match=r"no model yet.*leff resume"):
        run("classification", "other", tmp_path / "unfinished")


def test_own_rows_all_train_and_the_head_says_so(tmp_path, quick_runs, cli):
    from tiny_runs import flags

    table = write_table(tmp_path / "t.jsonl", "classification", rows=90)
    given = options(save_tiny(tmp_path / "m", "classification"), **SMALL, data__train=str(table))
    del given["data.train_examples"]
    status, out, errors = cli("run", "--out", tmp_path / "run", *flags(given))
    assert status == 0, errors
    assert "81 of 81 training rows, texts up to 32 tokens, learning rate 0.004" in out
    assert "measured on 6 of 9 validation rows, at the end on 6 of 9" in out


def test_what_a_run_chooses_is_kept_and_makes_it_no_other_run(run):
    made = run("classification")
    assert "learning_rate = 0.004" in (made.folder / "config.toml").read_text()
    with pytest.raises(ConfigError, match=r"holds this very run; `leff resume"):
        run("classification")
    with pytest.raises(ConfigError, match="another configuration"):
        run("classification", training__learning_rate=0.5)


def test_the_built_in_tokenizer_has_no_template_of_its_own():
    assert AutoTokenizer.from_pretrained(str(MODEL)).chat_template is None


def test_added_tokens_are_mentioned_as_their_embeddings_stay_frozen(run, tmp_path, caplog):
    start = save_tiny(tmp_path / "start")
    tokenizer = AutoTokenizer.from_pretrained(start)
    tokenizer.add_tokens(["fen"])
    model, _ = load_model(start, "generation")
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    run("generation", model=start)
    assert "examples hold tokens added to the vocabulary (fen); embeddings stay" in caplog.text
