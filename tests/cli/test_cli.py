"""Every command: what it prints where, and its exit status."""

import json
import shutil
import subprocess
import sys

import pytest
from tiny_runs import flags, options, quicken, save_tiny, write_table
from typer.testing import CliRunner

import leff
from leff.cli import app
from leff.runs.config import RunConfig, load_config, parse_config

TABLE_5 = {
    ("deberta-v3-base", "fedavg"): 85_648_130,
    ("deberta-v3-large", "leff"): 13_649_922,
    ("gpt2", "leff"): 7_089_408,
    ("gpt2", "fedlora"): 811_008,
    ("gpt2-large", "fedbitfit"): 508_160,
    ("llama-3.1-8b", "fedlora"): 20_971_520,
}
pytestmark = pytest.mark.usefixtures("quick_runs")
BYTES = ("model_bytes", "gradients", "optimizer", "download_bytes", "upload_bytes", "total_bytes")


@pytest.fixture(scope="module")
def settings(tiny_gpt2, tmp_path_factory):
    table = write_table(tmp_path_factory.mktemp("data") / "train.jsonl", "generation")
    return options(
        tiny_gpt2,
        data__task="table",
        data__train=str(table),
        clients__partition="iid",
        training__rounds=2,
    )


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        return leff.run(**settings, out=tmp_path_factory.mktemp("cli") / "run").folder


def test_help_loads_nothing_that_takes_long():
    code = "import sys, leff.cli; print({'numpy', 'rich', 'torch', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_run_prints_a_line_a_round_and_the_result(cli, settings, tmp_path):
    status, printed, _said = cli("run", "--out", tmp_path / "run", *flags(settings))
    assert status == 0
    lines = printed.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("round ")] == ["0", "1", "2"]
    assert "BLEU" in printed and "before" in printed and printed.count("reference ") == 3
    assert f"picture   {tmp_path}/run/rounds.png" in lines
    assert f"model     {tmp_path}/run/model" in lines


def test_run_as_json(cli, settings, tmp_path):
    status, printed, said = cli("run", "--out", tmp_path / "run", "--json", *flags(settings))
    value = json.loads(printed)
    assert status == 0
    assert value["folder"] == str(tmp_path / "run") and value["metric"] == "BLEU"
    assert value["after"]["metrics"].keys() == value["before"]["metrics"].keys()
    assert "texts" not in value["after"] and "texts" not in value["before"]
    assert "round 1" in said  # progress


def test_named_flags(cli, settings, tmp_path):
    table = settings["data.train"]
    rest = {k: v for k, v in settings.items() if k not in ("model.name", "training.rounds")}
    arguments = ["--method", "fedavg", "--rounds", "1", "--seed", "4", "--model"]
    arguments += [settings["model.name"], "--data-dir", table.rpartition("/")[0]]
    status, printed, _ = cli("run", "--out", tmp_path / "run", "--json", *arguments, *flags(rest))
    value = json.loads(printed)
    assert (status, value["method"], value["rounds"], value["seed"]) == (0, "fedavg", 1, 4)


def test_resume(cli, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    status, printed, _ = cli("resume", folder, "--json", "--texts")
    result = json.loads(printed)
    assert (
        status == 0 and result["after"] == json.loads((folder / "result.json").read_text())["after"]
    )
    (folder / "result.json").unlink()
    status, printed, said = cli("resume", folder, "--json", "--texts")
    assert status == 0 and json.loads(printed) == result and "round 2" in said
    status, printed, _ = cli("resume", folder)
    assert status == 0 and "before" in printed


def test_a_run_goes_on_from_a_finished_one(cli, finished, tmp_path):
    more = ["--rounds", "1", "--set", "training.learning_rate=0.001"]
    status, printed, _ = cli("run", "--from", finished, "--out", tmp_path / "b", "--json", *more)
    value, before = json.loads(printed), leff.Run(finished, {}).records()
    assert (status, value["rounds"]) == (0, 1)
    assert value["before"]["loss"] == pytest.approx(before[-1].loss, abs=1e-4)
    given = load_config(tmp_path / "b" / "config.toml")
    assert given.model.name == str(finished)
    assert given.clients == load_config(finished / "config.toml").clients
    for wrong in (["a.toml"], ["--model", "gpt2"]):
        status, _, said = cli("run", "--from", finished, *wrong)
        assert status == 2 and "leave CONFIG and --model" in said
    status, _, said = cli("run", "--from", tmp_path)
    assert status == 2 and "is no run folder" in said


def test_run_refuses_a_folder_that_has_a_run(cli, settings, finished):
    status, printed, said = cli("run", "--out", finished, *flags(settings))
    assert (status, printed) == (2, "") and f"`leff resume {finished}` goes on" in said
    status, _, said = cli("run", "--out", finished, "--seed", "9", *flags(settings))
    assert status == 2 and "another configuration; choose another --out" in said


def test_evaluate(cli, finished):
    status, printed, _ = cli("evaluate", finished, "--examples", "6", "--json")
    value = json.loads(printed)
    after = json.loads((finished / "result.json").read_text())["after"]
    assert status == 0 and value == {k: v for k, v in after.items() if k != "texts"}
    status, printed, _ = cli("evaluate", finished, "--examples", "2", "--beams", "2")
    assert status == 0 and "BLEU" in printed and "METEOR: not computed" in printed


def test_generate(cli, finished, tmp_path):
    inputs = ["place: fen 1", "place: hill 2"]
    status, printed, _ = cli("generate", finished, *inputs, "--max-new-tokens", "4", "--json")
    rows = json.loads(printed)
    assert status == 0 and [row["input"] for row in rows] == inputs
    (tmp_path / "in.txt").write_text("\n".join(inputs) + "\n")
    status, printed, _ = cli(
        "generate", finished, "--file", tmp_path / "in.txt", "--max-new-tokens", "4"
    )
    assert status == 0 and printed.split("\n") == [*(row["output"] for row in rows), ""]
    status, printed, _ = cli(
        "generate", finished / "model", inputs[0], "--max-new-tokens", "9", "--json"
    )
    assert status == 0 and len(json.loads(printed)) == 1
    status, printed, _ = cli(
        "generate", finished, *inputs, "--beams", "3", "--max-new-tokens", "4", "--json"
    )
    wanted = leff.generate(finished, inputs, beams=3, max_new_tokens=4)
    assert status == 0 and [row["output"] for row in json.loads(printed)] == wanted


def test_generate_needs_a_model_that_generates(cli, tmp_path):
    model = save_tiny(tmp_path / "bert", "classification")
    status, printed, said = cli("generate", model, "a")
    assert (status, printed) == (2, "") and "classifies; it generates no text" in said


def test_list(cli, finished, tmp_path):
    status, printed, _ = cli("list", tmp_path)
    assert status == 0 and "no run in" in printed
    assert json.loads(cli("list", tmp_path, "--json")[1]) == []
    shutil.copytree(finished, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.toml").write_text("x = [")
    status, printed, _ = cli("list", tmp_path, "--json")
    assert status == 0 and [row["finished"] for row in json.loads(printed)] == [False, True]
    status, printed, _ = cli("list", tmp_path)
    assert status == 0 and "damaged" in printed


def test_runs_are_compared(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "a")
    more = ["--rounds", "1", "--set", "training.learning_rate=0.001", "--out", tmp_path / "b"]
    assert cli("run", "--from", finished, *more)[0] == 0
    both = [tmp_path / "a", tmp_path / "b"]
    found = json.loads(cli("list", "--compare", *both, "--json")[1])
    assert found["training.rounds"] == [2, 1] == found["rounds"]
    assert found["training.learning_rate"][1] == 0.001
    assert "training.batch_size" not in found  # the same in both
    after = [json.loads((run / "result.json").read_text())["after"] for run in both]
    assert {each["split"] for each in after} == {"validation"}  # there is no test file
    assert found["validation BLEU"] == [each["metrics"]["BLEU"] for each in after]
    status, printed, _ = cli("list", *both, "--compare")
    assert status == 0 and "training.learning_rate" in printed
    assert "two runs or more, got 1" in cli("list", "--compare", finished)[2]
    assert "--compare takes several runs" in cli("list", *both)[2]
    assert "is no run folder" in cli("list", "--compare", finished, tmp_path)[2]


def test_config(cli, finished):
    import tomllib

    status, printed, _ = cli("config")
    assert status == 0 and parse_config(tomllib.loads(printed)) == RunConfig()
    status, printed, _ = cli("config", "--json")
    assert status == 0 and json.loads(printed) == RunConfig().model_dump(mode="json")
    status, printed, _ = cli("config", finished / "config.toml")
    assert printed == (finished / "config.toml").read_text()


@pytest.mark.parametrize(("model", "method"), TABLE_5)
def test_plan(model, method):
    """One JSON value, with the paper's count (Table 5) and bytes by role."""
    done = CliRunner().invoke(app, ["plan", model, "--method", method, "--layers", "1", "--json"])
    value = json.loads(done.stdout)
    assert done.exit_code == 0 and value["model"] == model
    assert value["trainable_parameters"] == TABLE_5[model, method]
    assert value["weights"].keys() >= {"embeddings", "block", "tail", "stand_in", "total"}
    assert all(isinstance(value[name], int) for name in BYTES)


def test_plan_of_gpt2_medium_and_as_a_table(cli):
    value = json.loads(cli("plan", "gpt2-medium", "--method", "fedavg", "--json")[1])
    assert value["trainable_parameters"] == 24 * 12 * 1024**2 + 24 * 13 * 1024 + 2 * 1024
    status, printed, _ = cli("plan", "gpt2", "--layers", "2", "--context", "quantise")
    assert status == 0 and "gpt2: leff, 14,177,280 parameters train" in printed
    assert "weights: stand_in" in printed and "total_bytes" in printed


@pytest.mark.parametrize("file", ["", "config.json"])
def test_plan_of_a_folder_and_of_a_file(file, tiny_gpt2, cli):
    value = json.loads(cli("plan", tiny_gpt2 / file, "--method", "fedavg", "--json")[1])
    assert value["trainable_parameters"] == 4 * (12 * 256 + 13 * 16) + 2 * 16


def test_score(cli, tmp_path):
    (tmp_path / "ref").write_text("a walk by the river\na river walk\n\nthe old mill is near\n")
    (tmp_path / "hyp").write_text("a walk by the river\nthe old mill is near\n")
    status, printed, _ = cli("score", tmp_path / "ref", tmp_path / "hyp", "--json")
    value = json.loads(printed)
    assert status == 0
    assert set(value) == {"BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr", "notes"}
    assert value["BLEU"] == pytest.approx(1) and value["METEOR"] is None
    status, printed, _ = cli("score", tmp_path / "ref", tmp_path / "hyp")
    assert status == 0 and "ROUGE_L" in printed and "METEOR: not computed" in printed


def test_failure_during_the_work(cli, settings, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("leff.runs.folder.RunFolder.append", full)
    status, printed, said = cli("run", "--out", tmp_path / "run", "--json", *flags(settings))
    assert (status, printed) == (1, "")
    assert "error: [Errno 28] No space left on device" in said and "Traceback" not in said


def test_an_interrupted_run_can_go_on(cli, settings, finished, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("leff.runs.federation.save_model", interrupt)
        status, printed, said = cli("run", "--out", folder, "--json", *flags(settings))
    assert (status, printed) == (1, "")
    assert f"interrupted; `leff resume {folder}` goes on from the last round" in said
    assert "Traceback" not in said
    status, printed, _ = cli("resume", folder, "--json", "--texts")
    wanted = json.loads((finished / "result.json").read_text())
    assert status == 0 and json.loads(printed)["after"] == wanted["after"]


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [("gguf", "gguf", ["export"]), ("flwr", "device", ["run"]), ("nothing", None, ["run"])],
)
def test_a_missing_extra_is_one_line(package, extra, arguments, cli, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError(f"No module named '{package}.a'", name=f"{package}.a")

    monkeypatch.setattr("leff.api.export", missing)
    monkeypatch.setattr("leff.api.run", missing)
    if extra is None:  # a fault of ours: nothing hides it
        with pytest.raises(ModuleNotFoundError):
            cli(*arguments)
        return
    status, _, said = cli(*arguments, *(["x", "--merged", "y"] if arguments == ["export"] else []))
    wanted = f"error: this needs the package {package}; pip install 'leff[{extra}]'"
    assert status == 2 and said.strip().splitlines()[-1] == wanted


def test_help_names_every_command():
    text = CliRunner().invoke(app, ["--help"]).stdout
    commands = ("run", "resume", "evaluate", "generate", "list", "config", "plan", "score")
    assert all(name in text for name in commands)


def test_as_a_program(settings, tmp_path):
    """Status and streams of a real process: right use, wrong use, a failure."""

    def program(*arguments):
        command = [sys.executable, "-m", "leff", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    good = program("config", "--json")
    assert good.returncode == 0 and json.loads(good.stdout) and good.stderr == ""
    wrong = program("run", "--set", "training.rouds=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: the configuration: unknown key training.rouds")
    assert program("run", "--nothing").returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_as_a_program(settings, tmp_path):
    command = [sys.executable, "-m", "leff", "run", "--out", "run", "--json", *flags(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metric"] == "BLEU"
    assert "round 2" in done.stderr
    (tmp_path / "run" / "result.json").unlink()
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        path.write_text("{")
    command = [sys.executable, "-m", "leff", "resume", "run"]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert failed.returncode == 1
    assert "every checkpoint" in failed.stderr and "Traceback" not in failed.stderr
