"""Damaged and hostile model folders: one line each, no code of theirs runs, nothing is taken."""

import io
import json
import os
import pickle
import random

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import edit_config, save

from leff.errors import ModelError
from leff.models import load_config, load_model

CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Mine: pass\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny GPT-2; whoever asks a question is told yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    return save(tmp_path / "model", "gpt2", "generation")


def refused(folder, *words):
    with pytest.raises(ModelError) as error:
        load_model(folder, "generation")
    text = str(error.value)
    assert "\n" not in text and len(text) < 600 and all(word in text for word in words)
    assert not list(folder.parent.rglob("ran"))


def edit_json(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# Code


@pytest.mark.parametrize("kind", ["model", "mine"])
def test_code_of_the_folder_never_runs(folder, kind, capfd):
    """An architecture that the library has is loaded with the library's own code."""
    (folder / "evil.py").write_text(CODE)
    named = {"AutoConfig": "evil.Mine", "AutoModelForCausalLM": "evil.Mine"}
    edit_config(folder, auto_map=named, **({"model_type": "mine"} if kind == "mine" else {}))
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Mine", None]})
    capfd.readouterr()
    if kind == "mine":
        refused(folder, "needs code of its own, which LEFF never runs")
        with pytest.raises(ModelError, match="needs code of its own"):
            load_config(folder)
    else:
        assert type(load_model(folder, "generation")[0]).__name__ == "GPT2LMHeadModel"
    assert not (folder / "ran").exists()
    assert "[y/N]" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_code_on_the_hub_never_runs(folder, key):
    edit_config(folder, **{key: "kernels-community/flash-attn"})
    refused(folder, "asks for code from elsewhere")


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def pickled(folder, **more):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**tensors, **more}, folder / "pytorch_model.bin")


def test_a_pickle_of_tensors_loads(folder):
    wanted, _ = load_model(folder, "generation")
    pickled(folder)
    model, _ = load_model(folder, "generation")
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_pickle_of_more_is_not_run(folder):
    pickled(folder, more=Runs(folder / "ran"))
    refused(folder, "a pickle with more than tensors; save them as safetensors")


@pytest.mark.filterwarnings("ignore:Environment variable TORCH_FORCE:UserWarning")
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_a_bare_pickle_is_not_run(folder):
    (folder / "model.safetensors").unlink()
    payload = pickle.dumps([Runs(folder / "ran"), bytes(10**6)])
    (folder / "pytorch_model.bin").write_bytes(payload)
    refused(folder)


# Files


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "a/../../b", 5, None, []])
def test_an_index_names_files_of_its_folder_only(folder, name):
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(folder.parent / "out.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "names a file that is not in its folder")


def test_an_index_of_its_own_files_loads(folder):
    weights = folder / "model.safetensors"
    names = list(load_file(weights))
    weights.rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(folder, "generation")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', "\0"])
def test_a_broken_index_is_named(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    refused(folder, "is no index of weights")


def test_an_adapter_is_not_a_model(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')
    refused(folder, "holds an adapter")


@pytest.mark.parametrize("text", ["[]", '"x"', "3", "null", "{", "", "[" * 10**5, "\0" * 50])
def test_a_config_that_is_no_object(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, str(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\0", '{"model": {}}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer(folder, name, text):
    if name == "tokenizer_config.json" and text in ("{}", '{"model": {}}'):
        pytest.skip("tokenizer.json is enough")
    (folder / name).write_text(text)
    refused(folder)


def test_a_tokenizer_whose_ids_have_gaps_must_fit_the_model(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["far"] = 10**6
    path.write_text(json.dumps(tokenizer))
    refused(folder, "has 1000001 tokens, the model only")


@pytest.mark.parametrize("kept", [0, 5, 100, 5000, -1])
def test_cut_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "cannot read the model at")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder, value):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.2.ln_1.bias"][3] = value
    save_file(tensors, path, {"format": "pt"})
    refused(folder, "transformer.h.2.ln_1.bias", "is not finite")


# Sizes


@pytest.mark.parametrize("value", [0, -1, 10**12, 10**400, 0.0, float("nan"), True - 1])
@pytest.mark.parametrize("key", ["n_head", "n_embd", "n_layer", "vocab_size", "n_positions"])
def test_an_impossible_size_is_refused_before_anything_is_made(folder, key, value, monkeypatch):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    edit_config(folder, **{key: value})
    refused(folder, f"has {key} = ", "must be a whole number from 1 to")


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_labels"])
def test_so_is_one_under_another_name(folder, key, monkeypatch):
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    edit_config(folder, **{key: 10**10})
    refused(folder, f"has {key} = ")


def test_a_model_larger_than_its_weights_is_not_made(tmp_path, monkeypatch):
    """The library would fill in a classifier's new words, all 17 GB of them."""
    folder = save(tmp_path)
    edit_config(folder, vocab_size=2**27)
    monkeypatch.setattr("transformers.AutoModelForSequenceClassification.from_pretrained", None)
    with pytest.raises(ModelError, match=r"describes 4,29\d,\d{3},\d{3} values, .* have only"):
        load_model(folder, "classification")


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "float3"},
        {"activation_function": "nope"},
        {"attn_pdrop": 7},
        {"attn_pdrop": -0.5},
        {"quantization_config": 5},
        {"id2label": [1, 2]},
        {"model_type": ["gpt2"]},
        {"n_embd": "wide"},
        {"layer_norm_epsilon": "x"},
    ],
    ids=str,
)
def test_other_values_that_cannot_be(folder, values):
    edit_config(folder, **values)
    refused(folder, str(folder))


VALUES = (
    *(None, True, 0, 1, -1, 3, 7, 33, 64, 2**16, 2**40, 10**30, 0.5, -1.5, 1e300, float("nan")),
    *(
        "",
        "x",
        "gelu",
        "float64",
        "../x",
        [],
        [1],
        [1, 2, 3, 4],
        ["a"],
        {},
        {"a": 1},
        {"type": "x"},
    ),
)
BASES = {"gpt2": "generation", "llama": "generation", "bert": "classification"}


@pytest.mark.soak(24, 1_500)
@pytest.mark.filterwarnings("ignore")  # the library's, about odd values
def test_a_folder_with_a_changed_config_loads_or_is_refused(tmp_path, count):
    rng, outcomes = random.Random(5), {"refused": 0, "loaded": 0}
    folders = {name: save(tmp_path / name, name, kind) for name, kind in BASES.items()}
    texts = {name: json.loads((f / "config.json").read_text()) for name, f in folders.items()}
    for _ in range(count):
        name = rng.choice(list(BASES))
        values = dict(texts[name])
        for key in rng.sample(sorted(values), rng.choice((1, 1, 2))):
            values[key] = rng.choice(VALUES)
        (folders[name] / "config.json").write_text(json.dumps(values))
        try:
            model, _ = load_model(folders[name], BASES[name])
        except ModelError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error) and len(str(error)) < 800
        else:
            outcomes["loaded"] += 1
            assert all(p.isfinite().all() for p in model.parameters())
    assert all(outcomes.values())


@pytest.mark.soak(12, 1_000)
def test_a_folder_with_a_damaged_file_loads_or_is_refused(folder, count):
    rng = random.Random(6)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(count):
        path = rng.choice(sorted(whole))
        data = bytearray(whole[path])
        for _ in range(rng.choice((1, 3, 30))):
            near = rng.choice((16, 500, len(data)))
            data[rng.randrange(min(near, len(data)))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(bytes(data))
        try:
            load_model(folder, "generation")
        except ModelError as error:
            assert "\n" not in str(error)
        path.write_bytes(whole[path])
