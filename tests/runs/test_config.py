"""Options: defaults, files, overrides, and what is said about a bad one."""

import re
import tomllib
from pathlib import Path

import pytest

import leff
from leff.errors import ConfigError
from leff.runs.budgets import layers_in_turn
from leff.runs.config import RunConfig, full_key, load_config, parse_config
from leff.runs.option_types import Section
from leff.runs.toml import commented_toml
from leff.runs.unused import unused_options

SECTIONS = {
    name: field.annotation
    for name, field in RunConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}


def test_defaults_parse_back():
    text = commented_toml()
    assert parse_config(tomllib.loads(text)) == RunConfig()
    assert commented_toml(RunConfig()) == text


def test_every_option_has_a_comment():
    text = commented_toml()
    for section, annotation in SECTIONS.items():
        part = re.split(r"^\[", text.split(f"\n[{section}]\n")[1], flags=re.M)[0]
        for name in annotation.model_fields:
            (line,) = [ln for ln in part.splitlines() if re.match(rf"(# )?{name}( =| is)", ln)]
            assert len(line.rpartition("# ")[2]) > 4, line


@pytest.mark.parametrize(
    "overrides",
    [
        {"data.train_examples": "all", "evaluation.final_examples": "all"},
        {"data.columns": {"input": 'a "quoted" name', "target": "ref\x7f\n"}},
        {"data.folder": "some where", "data.train": "x.csv"},
        {"clients.partition": "iid", "clients.by": ""},
        {"training.learning_rate": 1e-5, "context.rate": 1, "clients.alpha": 1e6},
        {"model.name": "owner/model"},
    ],
)
def test_any_configuration_parses_back(overrides):
    config = load_config(None, overrides)
    assert parse_config(tomllib.loads(commented_toml(config))) == config


def test_all_examples():
    assert load_config(None, {"data.train_examples": "all"}).data.train_examples is None
    assert load_config(None, {"data.train_examples": 7}).data.train_examples == 7


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("seed = 3\n[training]\nrounds = 4\nbatch_size = 5\n")
    config = load_config(path, {"training.rounds": 6})
    assert (config.seed, config.training.rounds, config.training.batch_size) == (3, 6, 5)


def test_paths_are_absolute_from_where_the_file_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Path("tiny/config.json").touch()
    config = load_config(
        None,
        {
            "model.name": "tiny",
            "data.train": "mine/train.csv",
            "data.test": tmp_path / "t.csv",
            "proxy.folder": "public",
            "proxy.train": "texts.txt",
        },
    )
    assert config.model.name == str(tmp_path / "tiny")
    assert config.data.train == tmp_path / "mine/train.csv"
    assert config.data.test == tmp_path / "t.csv"
    assert config.proxy.train == tmp_path / "public/texts.txt"  # as load_task has it
    assert load_config(None, {"model.name": "gpt2"}).model.name == "gpt2"
    assert (
        load_config(None, {"data.train": "~no.such.user/a"}).data.train
        == tmp_path / "~no.such.user/a"
    )
    several = load_config(None, {"data.train": ["a.csv", "sites/*.csv"], "data.folder": "mine"})
    assert several.data.train == [tmp_path / "mine/a.csv", tmp_path / "mine/sites/*.csv"]
    assert parse_config(tomllib.loads(commented_toml(several))) == several


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.train": 3}, "data.train must be a path, a pattern, or a list of these, got 3"),
        ({"data.train": []}, "data.train must be a path, a pattern, or a list of these, got []"),
        ({"proxy.train": ["a", 3]}, "proxy.train must be a path, a pattern, or a list"),
        ({"training.rouds": 3}, "unknown key training.rouds; did you mean 'rounds'?"),
        ({"trainng.rounds": 3}, "unknown key trainng; did you mean 'training'?"),
        ({"rounds": 3}, "unknown key rounds; did you mean 'training.rounds'?"),
        ({"xyz": 3}, "unknown key xyz; sections are: preset, seed, model"),
        ({"training.rounds": 0}, "training.rounds must be at least 1, got 0"),
        ({"training.rounds": "many"}, "training.rounds must be a whole number, got 'many'"),
        ({"training.rounds": 2.5}, "training.rounds must be a whole number, got 2.5"),
        ({"clients.count": 0}, "clients.count must be at least 1, got 0"),
        ({"clients.layers": [2, 0]}, "clients.layers must be at least 1 each, got 0"),
        ({"clients.per_round": 0}, "clients.per_round must be above 0.0, got 0"),
        ({"clients.per_round": 1.1}, "clients.per_round must be at most 1.0, got 1.1"),
        ({"clients.partition": "dirichlt"}, "cannot be 'dirichlt'; did you mean 'dirichlet'?"),
        ({"context.name": "distill"}, "cannot be 'distill'; did you mean 'distil'?"),
        ({"context.bits": 5}, "context.bits cannot be 5; known are: 32, 16, 8, 4"),
        ({"context.name": "auto"}, "context.name = 'auto' needs clients.memory or clients.flops"),
        ({"clients.memory": ["64 MBit"]}, "clients.memory: '64 MBit' has an unknown unit 'MBit'"),
        ({"clients.flops": ["a lot"]}, "clients.flops: 'a lot' is no amount"),
        (
            {"context.name": "auto", "clients.flops": ["1G"], "context.suffix": "drop"},
            "context.suffix = 'drop' cannot be combined with context auto",
        ),
        ({"method.relaxation": 0.5}, "method.relaxation must be 0 or at least 1, got 0.5"),
        ({"method.momentum": 1}, "method.momentum must be below 1"),
        ({"preset": "papr"}, "preset cannot be 'papr'; did you mean 'paper'?"),
        ({"context.rate": 0.0}, "context.rate must be above 0.0, got 0.0"),
        ({"context.rate": 1.01}, "context.rate must be at most 1.0, got 1.01"),
        ({"context.rate": float("nan")}, "context.rate must be a finite number"),
        (
            {"training.accumulation": 5, "training.batch_size": 12},
            "training.accumulation = 5 does not divide training.batch_size = 12; these do: 1, 2, "
            "3, 4, 6, 12",
        ),
        (
            {"training.batch_size": 4096, "data.max_length": 1024, "training.accumulation": 2},
            "is 2097152 tokens at once, the most is 1048576; lower one, or raise",
        ),
        ({"training.accumulation": 0}, "training.accumulation must be at least 1, got 0"),
        ({"training.optimizer": "adam8"}, "training.optimizer cannot be 'adam8'"),
        ({"model": "gpt2"}, "model is a section, got 'gpt2'; did you mean model.name?"),
        ({"model.name": 3}, "model.name must be text, got 3"),
        ({"seed": 1, "seed.x": 3}, "seed.x: seed is a value, not a section"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**31}, "seed must be below 2147483648"),
        ({"data.columns": 3}, "data.columns must be a table, got 3"),
        ({"data.folder": 3}, "data.folder must be a path, got 3"),
        ({"engine.name": "flowr"}, "engine.name cannot be 'flowr'"),
        ({"engine.client_cpus": 0}, "engine.client_cpus must be above 0.0, got 0"),
        (
            {"engine.ray": "auto", "engine.workers": 2},
            "engine.ray = 'auto' and engine.workers = 2 both say how many clients work at a time",
        ),
    ],
)
def test_a_bad_option_is_one_clear_line(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text and "pydantic" not in text and "Input should" not in text


def test_all_bad_options_are_named_at_once():
    with pytest.raises(ConfigError, match=r"context.rate must .*; training.rounds must"):
        load_config(None, {"context.rate": 2, "training.rounds": 0})


def test_bad_files(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*nowhere.toml; `leff config`"):
        load_config(tmp_path / "nowhere.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("[training\n")
    with pytest.raises(ConfigError, match=r"bad.toml cannot be read as TOML: .*line 1"):
        load_config(bad)
    bad.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(bad)
    bad.write_text("[training]\nrounds = 0\n")
    with pytest.raises(ConfigError, match=r"bad.toml: training.rounds must"):
        load_config(bad)
    with pytest.raises(ConfigError, match=r"bad.toml: training.rounds must"):
        load_config(bad, {"training.epochs": 2.0})
    assert load_config(bad, {"training.rounds": 2}).training.rounds == 2
    bad.write_text("[training]\nrounds = 2\n")
    with pytest.raises(ConfigError, match=r"bad.toml with the options given: unknown key rounds"):
        load_config(bad, {"rounds": 2})


@pytest.mark.parametrize(
    ("key", "value", "full"),
    [
        ("rounds", 3, "training.rounds"),
        ("seed", 3, "seed"),
        ("training.rounds", 3, "training.rounds"),
        ("model", "gpt2", "model.name"),
        ("method", "fedavg", "method.name"),
        ("data", "e2e", "data.task"),
        ("model", {"name": "gpt2"}, "model"),
        ("unknown", 3, "unknown"),
    ],
)
def test_bare_names(key, value, full):
    assert full_key(key, value) == full


def test_an_ambiguous_bare_name_lists_the_full_ones():
    places = "context.learning_rate or training.learning_rate"
    with pytest.raises(ConfigError, match=f"'learning_rate' could be {places}; give the full name"):
        full_key("learning_rate")


EXAMPLES = Path(leff.__file__).parent / "examples"
CONFIGS = ("e2e.toml", "sst2.toml", "small.toml", "network/demo.toml", "new/config.toml")


@pytest.mark.parametrize("name", CONFIGS)
def test_examples_load(name):
    load_config(EXAMPLES / name)


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, []),
        ({"context.rate": 0.2}, ["context.rate"]),
        ({"context.rate": 0.2, "context.name": "drop"}, []),
        ({"context.steps": 7, "context.name": "drop"}, ["context.steps"]),
        ({"context.steps": 7, "context.name": "distil"}, []),
        ({"context.seconds": 7, "context.rate": 0.2, "context.suffix": "distil"}, []),
        ({"context.whole": True, "context.rate": 0.2, "context.suffix": "drop"}, ["whole"]),
        ({"method.sampling": "random", "method.temperature": 2.0}, ["method.temperature"]),
        ({"method.sampling": "random", "method.exploration": 0.5}, ["method.exploration"]),
        ({"method.sampling": "round_robin", "method.stratified": False}, ["method.stratified"]),
        ({"method.source": "clients", "proxy.importance_batches": 5}, ["importance_batches"]),
        ({"method.name": "fedavg", "proxy.examples": 3}, ["proxy.examples"]),
        ({"method.name": "fedavg", "method.relaxation": 3.0}, ["method.relaxation"]),
        ({"method.trim": 0.1, "method.merge": "median"}, ["method.trim"]),
        ({"method.trim": 0.1, "method.merge": "trimmed_mean"}, []),
        ({"method.most_weight": 0.5, "method.clip_norm": 1.0}, []),
        ({"method.most_weight": 0.5, "method.merge": "median"}, ["most_weight"]),
        ({"clients.flops": ["1G"]}, ["clients.flops"]),
        ({"context.name": "auto", "clients.flops": ["1G"], "context.bits": 4}, ["context.bits"]),
        ({"evaluation.gap_clients": 0, "evaluation.gap_examples": 9}, ["gap_examples"]),
        ({"preset": "paper"}, []),
        ({"preset": "paper", "clients.flops": ["1G"]}, ["clients.flops"]),
        ({"method.name": "fedavg"}, []),
        ({"method.name": "fedavg", "method.mixed": True}, ["method.mixed"]),
        ({"clients.partition": "iid", "clients.alpha": 2.0, "clients.by": "a"}, ["alpha", "by"]),
        ({"clients.partition": "files", "clients.alpha": 2.0, "clients.by": "a"}, ["alpha", "by"]),
    ],
)
def test_changed_options_without_effect_are_named(changes, unused):
    found = unused_options(load_config(None, changes))
    assert [key if key in unused else key.split(".")[1] for key in found] == unused


def test_options_of_another_kind_of_task_are_named():
    data = {"data.group": "input", "data.prompt": "{input} =", "data.chat_template": "plain"}
    config = load_config(None, {"data.task": "table", "data.train": "a.csv"} | data)
    assert unused_options(config) == []
    assert unused_options(config, "generation") == ["data.chat_template"]
    assert unused_options(config, "chat") == ["data.prompt", "data.group"]
    held = load_config(None, {"evaluation.bits": 16, "clients.validation_share": 0.3})
    assert unused_options(held, "classification") == []
    assert unused_options(held, "text") == ["evaluation.bits", "clients.validation_share"]


def test_the_paper_preset_is_its_literal_procedure():
    config = load_config(None, {"preset": "paper"})
    method, context, training = config.method, config.context, config.training
    assert (method.sampling, method.scale, method.exploration) == ("importance", "literal", 0)
    assert (method.stratified, method.relaxation, method.momentum) == (False, 0, 0)
    assert (context.name, context.bits, context.embedding_bits) == ("distil", 32, 32)
    assert context.whole and training.schedule == "constant"
    assert not training.calibrated and not training.proximal
    assert (training.levelled, method.weights, method.mixed) == (False, "examples", False)


def test_only_leff_has_aids_for_skewed_labels_by_default():
    def aids(**given):
        config = load_config(None, {key.replace("__", "."): v for key, v in given.items()})
        method, training = config.method, config.training
        shared = (training.levelled, training.calibrated, training.calibrated_from)
        return (*shared, method.weights, method.mixed)

    assert aids() == (True, True, 0.1, "auto", True)
    assert aids(method__name="fedavg") == (False, False, 0, "examples", False)
    assert aids(preset="paper") == (False, False, 0, "examples", False)
    given = {"training__levelled": True, "training__calibrated_from": 0.3}
    assert aids(method__name="slora", **given) == (True, False, 0.3, "examples", False)
    assert aids(privacy__noise=1.0) == (False, True, 0.1, "equal", False)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_what_is_given_wins_over_a_preset_and_survives_a_file(name):
    given = {"preset": name, "context.rate": 0.2, "method.scale": "standardised"}
    config = load_config(None, given)
    assert config.context.rate == 0.2 and config.method.scale == "standardised"
    assert parse_config(tomllib.loads(commented_toml(config))) == config


def test_layers_that_nobody_gave_stay_so_in_the_runs_own_file(tmp_path):
    """A resumed run on a network has each device train what it has room for, as before."""
    path = tmp_path / "config.toml"
    path.write_text(commented_toml(load_config(None, {"engine.name": "flower"})))
    assert load_config(path).clients.layers == [] == RunConfig().clients.layers
    assert layers_in_turn(RunConfig().clients, 4) == [1, 1, 2, 2, 3, 3, 4, 4]


def test_all_rows_of_own_data_are_no_option_that_somebody_gave():
    config = load_config(None, {"data.task": "table", "engine.name": "flower"})
    assert config.data.train_examples is None and unused_options(config) == []


def test_options_of_other_engines_are_named():
    given = {"engine.quorum": 2, "engine.client_gpus": 0.5}
    assert unused_options(load_config(None, given)) == ["engine.quorum", "engine.client_gpus"]
    own = {"engine.name": "flower-simulation"}
    assert unused_options(load_config(None, given | own)) == ["engine.quorum"]
    own = {"engine.name": "flower"}
    assert unused_options(load_config(None, given | own)) == ["engine.client_gpus"]


def test_every_path_can_be_a_text(tmp_path, monkeypatch):
    """As TOML and the command line have it; a relative one is of the working directory."""
    monkeypatch.chdir(tmp_path)
    found = [
        (section, key)
        for section, own in SECTIONS.items()
        for key, field in own.model_fields.items()
        if "Path" in str(field.annotation) and "str" not in str(field.annotation)
    ]
    assert ("engine", "server") in found and ("data", "test") in found
    for section, key in found:
        config = load_config(None, {f"{section}.{key}": "some/file"})
        value = getattr(getattr(config, section), key)
        assert (value[0] if isinstance(value, list) else value) == tmp_path / "some" / "file"
