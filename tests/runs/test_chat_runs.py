"""Runs on conversations, and talk with the model afterwards."""

import json

import pytest
from tiny_runs import options, quicken

import leff
from leff.errors import ConfigError, ModelError
from leff.runs.talk import Talk
from leff.runs.trained import trained_form

pytestmark = pytest.mark.usefixtures("quick_runs")


def talks(folder, count=20):
    path = folder / "talks.jsonl"
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": f"How far is walk {i}?"},
                {"role": "assistant", "content": f"It is {i} miles."},
                {"role": "user", "content": "Is it steep?"},
                {"role": "assistant", "content": "No."},
            ]
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(tiny_gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    changes = {
        "data__task": "table",
        "data__train": str(talks(folder)),
        "clients__partition": "iid",
        "training__rounds": 2,
        "evaluation__max_new_tokens": 4,
        "evaluation__final_examples": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        return leff.run(**options(tiny_gpt2, **changes), out=folder / "run")


def test_a_run_learns_answers_and_writes_some(run):
    result = run.result
    assert result["metric"] == "perplexity"
    assert result["after"]["metrics"]["perplexity"] < result["before"]["metrics"]["perplexity"]
    assert {"BLEU", "ROUGE_L"} <= result["after"]["metrics"].keys()
    for text in result["after"]["texts"]:
        assert (text["input"], text["references"]) == ("Is it steep?", ["No."])
    assert [r.metric is not None for r in run.records()] == [True] * 3


def test_the_saved_template_makes_what_was_trained(run):
    model = run.folder / "model"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    form = trained_form(run.folder, tokenizer).chat
    talk = [{"role": "user", "content": "Far?"}, {"role": "assistant", "content": "No."}]
    assert tokenizer.apply_chat_template(talk, tokenize=False) == form.text(talk)
    assert "User: Far?\nAssistant: No." in form.text(talk)
    end = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(end) == form.end
    assert "chat template" in (model / "README.md").read_text()


def test_talk_reads_what_was_said_before(run):
    talk = Talk(run.folder, max_new_tokens=3)
    assert not talk.begun
    first = talk.say("How far is walk 3?")
    assert talk.begun and first == leff.generate(
        run.folder, ["How far is walk 3?"], max_new_tokens=3
    )[0]  # fmt: skip
    second = talk.say("Is it steep?")
    assert [each["content"] for each in talk.messages] == [
        "How far is walk 3?", first, "Is it steep?", second,
    ]  # fmt: skip
    talk.begin_again()
    assert not talk.begun and talk.say("How far is walk 3?") == first


def test_leff_generate_chat(run, cli, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("How far?\nIs it steep?\n\nHow far?\n"))
    status, printed, _ = cli(
        "generate", run.folder, "--chat", "--json", "--max-new-tokens", 2, "--system", "Be brief."
    )
    talks = json.loads(printed)
    assert status == 0 and [len(talk) for talk in talks] == [5, 3]
    assert talks[0][:3] == [*talks[1][:2], talks[1][2]]


@pytest.mark.parametrize("locale", [{"errors": "strict"}, {"errors": "surrogateescape"}])
def test_a_question_that_is_not_utf_8_is_one_line(locale, run, cli, monkeypatch):
    import io

    typed = io.TextIOWrapper(io.BytesIO(b"How \xff far?\n"), encoding="utf-8", **locale)
    monkeypatch.setattr("sys.stdin", typed)
    status, _, error = cli("generate", run.folder, "--chat")
    assert status == 2 and "the standard input is not UTF-8" in error


def test_a_template_that_fails_is_named_when_talk_begins(run, tmp_path):
    import shutil

    model = shutil.copytree(run.folder / "model", tmp_path / "model")
    (model / "chat_template.jinja").write_text("{{ raise_exception('no way') }}")
    with pytest.raises(ModelError, match=r"fails on a conversation of user.*\(no way\)"):
        Talk(model)


@pytest.mark.parametrize("more", [["a question"], ["--prompt", "{input}"], ["--beams", "2"]])
def test_chat_stands_alone(more, run, cli):
    status, _, error = cli("generate", run.folder, "--chat", *more)
    assert status == 2 and "--chat reads questions from the standard input" in error


def test_a_test_file_of_conversations(run, tmp_path):
    found = leff.evaluate(run.folder, data=talks(tmp_path, 3))
    assert found["examples"] == 3 and found["metrics"]["perplexity"] > 1


def test_a_system_turn_that_the_template_has_no_place_for(run, tmp_path, tiny_gpt2):
    import shutil

    model = shutil.copytree(tiny_gpt2, tmp_path / "model")
    (model / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('none') }}"
        "{% endif %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    changes = {
        "data__task": "table",
        "data__train": str(talks(tmp_path)),
        "clients__partition": "iid",
    }
    with pytest.raises(ConfigError, match=r"no place for a system turn.*'plain'"):
        leff.run(**options(model, **changes), out=tmp_path / "run")
    done = leff.run(
        **options(model, **changes, data__chat_template="plain", training__rounds=1),
        out=tmp_path / "run",
    )
    assert done.result["metric"] == "perplexity"
