"""Bad input: said in one line on standard error, with status 2, before anything is done."""

import json
import shutil

import pytest
from tiny_runs import flags, options, save_tiny, write_table

from leff.runs import federation


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """Errors have to come before any work."""
    monkeypatch.setattr(federation.Federation, "run", lambda *_: pytest.fail("the run was started"))


@pytest.fixture
def refused(cli, tmp_path, tiny_gpt2):
    """Run with a change of the options, and return what was said."""

    def _refused(*, drop=(), last=(), **changes):
        settings = options(
            tiny_gpt2,
            data__task="table",
            data__train=str(write_table(tmp_path / "good.jsonl", "generation")),
            clients__partition="iid",
        )
        settings |= {key.replace("__", "."): value for key, value in changes.items()}
        for key in drop:
            del settings[key]
        out = tmp_path / "run"
        status, printed, said = cli("run", "--out", out, "--json", *flags(settings), *last)
        assert (status, printed) == (2, "")
        assert not out.exists()
        lines = said.strip().splitlines()
        assert lines[-1].startswith("error: ") and "Traceback" not in said
        return said

    return _refused


OPTIONS = [
    ({"training.rouds": 3}, "unknown key training.rouds; did you mean 'rounds'?"),
    ({"training.rounds": 0}, "training.rounds must be at least 1, got 0"),
    ({"clients.count": 0}, "clients.count must be at least 1, got 0"),
    ({"clients.layers": [5]}, "clients.layers must be 1 to 4, the model's number of layers, got 5"),
    ({"clients.layers": [0]}, "clients.layers must be at least 1 each, got 0"),
    ({"context.rate": 0}, "context.rate must be above 0.0, got 0"),
    ({"context.rate": 1.5}, "context.rate must be at most 1.0, got 1.5"),
    ({"method.name": "lef"}, "no method 'lef'; did you mean 'leff'?"),
    ({"context.name": "distill"}, "context.name cannot be 'distill'; did you mean 'distil'?"),
    ({"clients.partition": "iidd"}, "clients.partition cannot be 'iidd'; did you mean 'iid'?"),
    ({"clients.partition": "column", "clients.by": "twn"}, "no column 'twn'; did you mean 'town'?"),
    ({"engine.device": "cudda"}, "engine.device = 'cudda' cannot be used"),
    ({"data.task": "e2ee"}, "no task is called 'e2ee'; did you mean 'e2e'?"),
    ({"proxy.task": "smple"}, "no task is called 'smple'; did you mean 'sample'?"),
    ({"data.max_length": 65}, "data.max_length must be at most 64, as "),
    ({"evaluation.max_new_tokens": 61}, "evaluation.max_new_tokens must be at most 60"),
    (
        {"clients.count": 100},
        "too few for 100 clients of at least 4; use fewer clients (clients.count)",
    ),
    ({"data.columns": {"inptu": "x"}}, "no column is called 'inptu' here; did you mean 'input'?"),
    ({"data.columns": {"input": "mr"}}, "good.jsonl has no column 'mr'"),
    ({"data.train": "nowhere.jsonl"}, "there is no file"),
    ({"data.folder": "/nowhere"}, "there is no file"),
    ({"proxy.task": "text", "proxy.train": "nowhere.txt"}, "there is no file"),
    ({"model.name": "./nowhere"}, "there is no model at ./nowhere"),
]


@pytest.mark.parametrize(("changes", "message"), OPTIONS)
def test_options(changes, message, refused):
    changed = {key.replace(".", "__"): value for key, value in changes.items()}
    if changes.get("data.folder"):
        changed["data__train"] = "x.jsonl"
    assert message in refused(**changed)


ROWS = [
    ('{"input": "a", "target": "b"}\n{"input": "a"\n', "bad.jsonl, line 2: not JSON"),
    ('{"input": "a", "target": "b"}\n{"input": "a"}\n', "line 2: no value in column 'target'"),
    (
        '{"input": "a", "target": "b"}\n{"input": 3, "target": "b"}\n',
        "line 2: 'input' must be text",
    ),
    ("", "bad.jsonl has no rows"),
    ('{"x": 1}\n', "the columns x make no task; map columns"),
]


@pytest.mark.parametrize(("text", "message"), ROWS)
def test_rows(text, message, refused, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    assert message in refused(data__train=str(path))


DIGITS = "9" * 5000
UNBEARABLE = [
    ("engine.workers=1000000", "engine.workers must be at most 1024, got 1000000"),
    ("engine.threads=100000", "engine.threads must be at most 256"),
    ("context.learning_rate=1e308", "context.learning_rate must be at most 1.0, got 1e+308"),
    ("training.learning_rate=nan", "training.learning_rate must be a finite number, got nan"),
    (
        f'clients.memory=["{DIGITS}GB"]',
        "clients.memory must have at most 4096 characters, got '999",
    ),
    (f'clients.memory=["{DIGITS[:4000]}GB"]', "GB' is too long for an amount"),
    ('clients.memory=["9999999999GB"]', "clients.memory: '9999999999GB' is too large"),
    ("clients.memory=[true]", "clients.memory.0 must be text such as '2GB', got True"),
    ("clients.deadline=1e400h", "clients.deadline = '1e400h' needs clients.fleet"),
    ("preset=[]", "preset cannot be []; known are: default, paper"),
    ("training.rounds=true", "training.rounds must be a whole number, got True"),
    ("training.rounds=3.0", "training.rounds must be a whole number, got 3.0"),
    ('training.rounds="3"', "training.rounds must be a whole number, got '3'"),
    (f"training.rounds={DIGITS}", "training.rounds must be a whole number, got '99999"),
    ("training.rounds=0x" + "f" * 5000, "must be at most 1000000, got a number of 20000 bits"),
    ("training.rounds=3\nseed=4", "must be a whole number, got '3\\nseed=4'"),
    ("training.calibrated=1", "training.calibrated must be true or false, got 1"),
    ("clients.layers=[1, true]", "clients.layers.1 must be a whole number, got True"),
    ("clients.layers=" + "[" * 5000, "clients.layers must be a list, got '[[["),
    ("training=3", "training is a section, got 3; did you mean training.rounds?"),
    ("training={rounds=3, b={c={}}}", "unknown key training.b"),
    ("=3", "unknown key ''; sections are: preset, seed"),
    (f"{DIGITS}=3", "unknown key '9999"),
    ("training..x=3", "unknown key training.''"),
    ('"training"."rounds"=3', "unknown key '\"training\"'"),
    ("method.name=['leff']", "method.name must be text, got ['leff']"),
    ("method.name=\x1b[31m", r"no method '\x1b[31m'"),
    ("data.train=~nosuchuser/x.csv", "there is no file"),
    ("data.train=a\0b", "data.train must have no NUL character"),
    (f"data.train={DIGITS}", "data.train must have at most 4096 characters"),
    ("data.train=" + "x" * 300, "data.train is no usable path (File name too long)"),
    ("data.train=[]", "data.train"),
    ("data.columns={input=3}", "data.columns.input must be text, got 3"),
    ("data.kind=talk", "data.kind cannot be 'talk'; known are: generation"),
    ("model.name=", "model.name must not be empty"),
    ("model.name=a\0b", "model.name must have no NUL character"),
    ("model.name=" + "x" * 300, "model.name is no usable path (File name too long)"),
    ("model.name=/tmp", "the folder /tmp has no config.json"),
    ("engine.device=tpu", "engine.device = 'tpu' cannot be used"),
    ("engine.device=meta", "engine.device = 'meta' cannot be used"),
    ("engine.device=hpu", "engine.device = 'hpu' cannot be used"),
    ("engine.device=cuda:99", "engine.device = 'cuda:99' cannot be used"),
    ("method.rank=1000", "method.rank must be 1 to 16"),
    ("seed=1e3", "seed must be a whole number, got 1000.0"),
    ("seed=1979-05-27", "seed must be a whole number, got datetime.date(1979, 5, 27)"),
]


@pytest.mark.parametrize(("option", "message"), UNBEARABLE, ids=lambda text: text[:30])
def test_values_that_no_run_could_bear(option, message, refused):
    drop = [key for key in ("data.train",) if option.startswith(key)]
    drop += ["model.name"] if option.startswith("model.name") else []
    method = ["--method", "fedlora"] if "rank" in option else []
    said = refused(drop=drop, last=["--set", option, *method])
    (line,) = [line for line in said.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert message in line and len(line) < 1000


def test_an_argument_that_is_not_utf_8(cli):
    status, printed, said = cli("run", "--set", "data.train=\udcff")
    assert (status, printed) == (2, "")
    assert said == "error: the argument 'data.train=\\udcff' is not UTF-8; write it in UTF-8\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "cannot be read as TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"#" * 2**21, "cannot be read as TOML: it has more than a MiB"),
        (b"a = " + b"[" * 9999, "cannot be read as TOML: its values are nested too deeply"),
        (b"a." * 50_000 + b"a = 1", "cannot be read as TOML: a key has more than 1000 parts"),
        (b"seed = " + b"9" * 5000, "cannot be read as TOML: Exceeds the limit"),
        (b"\n".join(b"k%d = 1" % i for i in range(9999)), "; and 9991 more"),
        (None, "cannot be read as TOML: Is a directory"),
    ],
)
@pytest.mark.parametrize("command", ["run", "config"])
def test_configuration_files_that_are_none(command, content, message, cli, tmp_path):
    path = tmp_path / "c.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    status, printed, said = cli(command, path)
    assert (status, printed) == (2, "") and len(said) < 1500
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_a_label_outside_the_range(refused, tmp_path):
    train = write_table(tmp_path / "train.jsonl", "classification")
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"text": "a", "label": "dry"}) + "\n")
    said = refused(
        model__name=str(save_tiny(tmp_path / "bert", "classification")),
        data__train=str(train),
        data__validation=str(other),
    )
    assert "other.jsonl, line 1: label 'dry' is none of the classes" in said


def test_proxy_data_without_text(refused, tmp_path):
    (tmp_path / "short.txt").write_text("a\nb\n")
    said = refused(proxy__task="text", proxy__train=str(tmp_path / "short.txt"))
    assert "the proxy data has no text of two tokens or more; see proxy.task" in said


def test_a_model_without_a_tokenizer(refused, tmp_path, tiny_gpt2):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_gpt2 / name, bare)
    assert "has no tokenizer" in refused(model__name=str(bare))


def test_a_model_that_cannot_do_the_task(refused, tmp_path):
    said = refused(model__name=str(save_tiny(tmp_path / "bert", "classification")))
    assert "generat" in said


def test_a_tokenizer_without_padding_falls_back_to_the_end(tmp_path, tiny_gpt2, caplog):
    from leff.runs.config import load_config
    from leff.runs.folder import RunFolder
    from leff.runs.prepare import prepare

    folder = shutil.copytree(tiny_gpt2, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    del values["pad_token"]
    path.write_text(json.dumps(values))
    table = write_table(tmp_path / "t.jsonl", "generation")
    config = load_config(
        None,
        options(folder, data__task="table", data__train=table, clients__partition="iid"),
    )
    with caplog.at_level("INFO", "leff"):
        prepared = prepare(config, RunFolder(tmp_path / "run"))
    assert "no padding token: padding with '<|endoftext|>'" in caplog.text
    assert prepared.model.config.pad_token_id == prepared.tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.rounds"], "--set takes KEY=VALUE"),
        (["--rounds", "0"], "training.rounds must be at least 1"),
        (["--method", "fedag"], "no method 'fedag'; did you mean 'fedavg'?"),
    ],
)
def test_flags(arguments, message, cli, tmp_path):
    status, printed, said = cli("run", "--out", tmp_path / "run", *arguments)
    assert (status, printed) == (2, "") and message in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["rn"],
        ["run", "--nothing"],
        ["run", "--rounds", "x"],
        ["generate"],
        ["plan"],
        ["score", "a"],
        ["evaluate", "x", "--beams", "0"],
    ],
)
def test_wrong_use_of_the_command_line(arguments, cli):
    status, printed, said = cli(*arguments)
    assert (status, printed) == (2, "") and said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.toml"], "there is no file nowhere.toml"),
        (["config", "nowhere.toml"], "there is no file nowhere.toml"),
        (["resume", "nowhere"], "nowhere is no run folder"),
        (["evaluate", "nowhere"], "nowhere is no run folder"),
        (["generate", "./nowhere", "a"], "there is no model at"),
        (["generate", "./nowhere"], "there is nothing to generate from"),
        (["generate", "./nowhere", "--file", "nofile"], "nofile cannot be read"),
        (["list", "nowhere"], "there is no folder nowhere"),
        (["plan", "./nowhere"], "there is no model at"),
        (["plan", "gpt2", "--method", "fedag"], "did you mean 'fedavg'?"),
        (["plan", "gpt2", "--layers", "13"], "layers must be 1 to 12"),
        (["plan", "gpt2", "--layers", "0"], "layers must be 1 to 12"),
        (["plan", "gpt2", "--rate", "0"], "rate must be above 0"),
        (["plan", "gpt2", "--context", "dstil"], "did you mean 'distil'?"),
        (["plan", "llama-3.1-8b", "--method", "fedbitfit"], "has none"),
        (["score", "nofile", "nofile"], "nofile"),
    ],
)
def test_every_command(arguments, message, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, said = cli(*arguments)
    assert (status, printed) == (2, "")
    assert said.startswith("error: ") and message in " ".join(said.split())


def test_folders_that_cannot_take_a_run(cli, tmp_path, tiny_gpt2):
    table = write_table(tmp_path / "t.jsonl", "generation")
    settings = flags(
        options(tiny_gpt2, data__task="table", data__train=str(table), clients__partition="iid")
    )
    (tmp_path / "file").touch()
    for out in (tmp_path, tmp_path / "file"):
        status, _, said = cli("run", "--out", out, *settings)
        assert status == 2 and "choose another --out" in said
