"""`leff mmlu`: what it prints, its exit status, and a run that learns from MMLU."""

import json

import pytest
from tiny_mmlu import write_mmlu
from tiny_runs import flags, options, save_tiny

import leff

pytestmark = pytest.mark.usefixtures("quick_runs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_mmlu(tmp_path_factory.mktemp("data"))


def test_as_json(cli, tiny_gpt2, data):
    status, printed, _ = cli("mmlu", tiny_gpt2, "--data-dir", data, "--json")
    found = json.loads(printed)
    assert status == 0
    keys = "accuracy subject_mean subjects categories questions notes shots"
    assert found.keys() == set(keys.split())
    subjects = found["subjects"]
    assert {name: value["questions"] for name, value in subjects.items()} == {
        "abstract_algebra": 3,
        "virology": 2,
    }
    right = sum(value["accuracy"] * value["questions"] for value in subjects.values())
    assert found["accuracy"] == pytest.approx(right / 5)
    mean = sum(value["accuracy"] for value in subjects.values()) / 2
    assert found["subject_mean"] == pytest.approx(mean)
    assert (found["shots"], found["questions"]) == (5, 5)
    assert leff.mmlu(tiny_gpt2, folder=data, batch_size=1) == found


def test_as_a_table(cli, tiny_gpt2, data):
    status, printed, _ = cli(
        "mmlu", tiny_gpt2, "--data-dir", data, "--subject", "virology", "--examples", 1,
        "--shots", 0, "--batch-size", 2,
    )  # fmt: skip
    assert status == 0
    lines = [line.split() for line in printed.splitlines()]
    assert ["subject", "accuracy", "questions"] in lines
    assert [line[-1] for line in lines if line[:1] == ["virology"]] == ["1"]
    assert "abstract_algebra" not in printed and "all questions" in printed
    assert "mean of the subjects" in printed and "lost their left" in printed
    assert "worked examples" not in printed  # none were asked for


def test_the_variable_names_the_data(cli, tiny_gpt2, data, monkeypatch):
    monkeypatch.setenv("LEFF_DATA", str(data))
    assert json.loads(cli("mmlu", tiny_gpt2, "--json")[1])["questions"] == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shots", 6), "shots must be 0 to 5, got 6"),
        (("--shots", -1), "shots must be 0 to 5, got -1"),
        (("--subject", "virolgy"), "no subject 'virolgy'; did you mean 'virology'?"),
    ],
)
def test_wrong_use_comes_before_the_model(cli, data, arguments, said, monkeypatch):
    monkeypatch.setattr(
        "leff.runs.trained.read_trained", lambda *_: pytest.fail("the model was read")
    )
    status, printed, found = cli("mmlu", "any", "--data-dir", data, *arguments)
    assert (status, printed) == (2, "") and said in found


def test_missing_data_and_models(cli, tiny_gpt2, data, tmp_path):
    status, _, said = cli("mmlu", tiny_gpt2, "--data-dir", tmp_path)
    assert status == 2 and f"looked in {tmp_path}/mmlu" in said and "val.parquet" in said
    write_mmlu(tmp_path, leave_out="test")
    status, _, said = cli("mmlu", tiny_gpt2, "--data-dir", tmp_path)
    assert status == 2 and f"{tmp_path}/mmlu has no test.parquet" in said
    status, _, said = cli("mmlu", tmp_path / "nothing", "--data-dir", data)
    assert status == 2 and "nothing" in said


def test_a_model_that_classifies_is_refused(cli, data, tmp_path):
    model = save_tiny(tmp_path / "bert", "classification")
    status, printed, said = cli("mmlu", model, "--data-dir", data)
    assert (status, printed) == (2, "") and "is no causal language model" in said


@pytest.mark.slow
def test_a_run_learns_from_mmlu(cli, tiny_gpt2, data, tmp_path):
    settings = options(
        tiny_gpt2, data__task="mmlu", clients__partition="iid", clients__count=2,
        clients__layers=[1, 2], training__rounds=1,
    )  # fmt: skip
    status, printed, _ = cli(
        "run", "--out", tmp_path / "run", "--data-dir", data, "--json", *flags(settings)
    )
    result = json.loads(printed)
    assert status == 0 and result["metric"] == "accuracy"
    assert result["after"]["metrics"].keys() == {"accuracy", "subject_mean"}
    found = json.loads(cli("mmlu", tmp_path / "run", "--data-dir", data, "--json")[1])
    assert found["accuracy"] == result["after"]["metrics"]["accuracy"]
