"""Loading from a folder: what fits loads quietly and exactly, the rest is refused by name."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_folders import edit_config, save
from tiny_models import tiny
from transformers import AutoConfig

from leff.errors import ModelError
from leff.models import (
    KNOWN_CONFIGS,
    blocks,
    build_model,
    capture,
    family_of,
    full_state,
    load_config,
    load_model,
    run_blocks,
    tail_state,
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gpt2", "generation"),
        ("llama", "text"),
        ("bert", "classification"),
        ("deberta-v3", "regression"),
        ("qwen2", "classification"),
    ],
)
def test_what_was_saved_is_loaded(name, kind, tmp_path, capfd):
    wanted = tiny(name, kind if kind != "text" else "generation")
    save(tmp_path, name, kind)
    capfd.readouterr()
    model, tokenizer = load_model(tmp_path, kind)
    assert not model.training
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert capfd.readouterr() == ("", "")


def test_half_precision_checkpoints_become_fp32(tmp_path):
    save(tmp_path)
    tiny("bert", "classification").half().save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, "classification")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.dtype == torch.float32


def test_a_new_head_comes_from_the_seed(tmp_path, capfd):
    save(tmp_path)
    capfd.readouterr()
    state = torch.get_rng_state()
    heads = [
        load_model(tmp_path, "classification", tuple("abcde"), seed=seed)[0].classifier.weight
        for seed in (3, 3, 4)
    ]
    assert heads[0].shape == (5, 32)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


def test_labels_and_regression_are_set(tmp_path):
    save(tmp_path)
    model, _ = load_model(tmp_path, "regression")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    assert tail_state(model)["classifier.weight"].shape == (1, 32)


def test_a_saved_tokenizer_says_nothing_of_the_machine(tmp_path):
    """The library notes whether its files were local, and whether the hub may be asked."""
    _, tokenizer = load_model(save(tmp_path / "model"), "classification")
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] and not {"is_local", "local_files_only"} & saved.keys()


def test_a_missing_tokenizer_is_refused(tmp_path):
    tiny("bert", "classification").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer.*put the tokenizer's files"):
        load_model(tmp_path, "classification")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match="has 60 tokens, the model only 50"):
        load_model(save(tmp_path, tokens=60), "classification")


@pytest.mark.parametrize("kind", ["generation", "text"])
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta-v3"])
def test_encoders_do_not_generate(name, kind, tmp_path):
    with pytest.raises(ModelError, match=r"cannot generate text .*use it for classification"):
        load_model(save(tmp_path, name), kind)


def test_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(ModelError, match="did you mean 'classification'"):
        load_model(save(tmp_path), "clasification")


def test_incomplete_checkpoints_are_refused(tmp_path):
    save(tmp_path, "gpt2", "generation")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({n: t for n, t in tensors.items() if ".h.2." not in n}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for transformer\.h\.2.* and \d+ more"):
        load_model(tmp_path, "generation")


def test_a_language_model_needs_its_head(tmp_path):
    save(tmp_path, "llama", "classification")
    with pytest.raises(ModelError, match=r"no weights for lm_head\.weight"):
        load_model(tmp_path, "generation")


def test_corrupt_weights_are_refused(tmp_path):
    path = save(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot read the model at"):
        load_model(tmp_path, "classification")


def test_quantised_checkpoints_are_refused(tmp_path):
    edit_config(save(tmp_path), quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(ModelError, match="is quantised"):
        load_model(tmp_path, "classification")


@pytest.mark.parametrize("name", ["./not-here", "/not/here", "a/b/c"])
def test_missing_folders_are_named(name):
    with pytest.raises(ModelError, match="there is no model at"):
        load_model(name, "generation")


def test_an_unreachable_hub_names_the_remedy(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'.\nmore")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ModelError, match=r"couldn't connect.*connection, or give a folder"):
        load_model("gpt3", "generation")


def test_folders_without_a_readable_config_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path, "generation")
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ModelError, match="cannot read the model"):
        load_model(tmp_path, "generation")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": "two"}')
    with pytest.raises(ModelError, match="n_layer"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot read the model"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", KNOWN_CONFIGS)
def test_known_names_need_no_network(name, monkeypatch):
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    config, kind = load_config(name)
    assert kind == ("classification" if "deberta" in name else "generation")
    assert family_of(config).name in name.replace("deberta-v3", "deberta-v2")


@pytest.mark.parametrize(
    ("name", "saved", "kind"),
    [
        ("gpt2", "generation", "generation"),
        ("llama", "classification", "classification"),
        ("bert", "regression", "regression"),
    ],
)
def test_the_kind_is_what_the_head_is_for(name, saved, kind, tmp_path):
    tiny(name, saved).save_pretrained(tmp_path)
    assert load_config(tmp_path)[1] == kind
    assert load_config(tmp_path / "config.json")[1] == kind
    edit_config(tmp_path, architectures=None)
    assert load_config(tmp_path)[1] == ("classification" if name == "bert" else "generation")


@pytest.mark.skipif("LEFF_MODELS" not in os.environ, reason="LEFF_MODELS names no folder of models")
@pytest.mark.parametrize(
    ("name", "kind", "layers"),
    [("all-MiniLM-L6-v2", "classification", 6), ("stories260K", "generation", 5)],
)
def test_real_checkpoints(name, kind, layers, tmp_path):
    source = Path(os.environ["LEFF_MODELS"]) / name
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    shutil.copytree(source, tmp_path / name)
    model, tokenizer = load_model(tmp_path / name, kind)
    assert model.config.num_hidden_layers == layers
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    inputs = tokenizer(["once upon a time", "a"], padding=True, return_tensors="pt")
    built = build_model(model.config, kind, range(layers), full_state(model)).eval()
    with torch.no_grad():
        assert torch.equal(built(**inputs).logits, model(**inputs).logits)
        trace = capture(model, inputs)
        hidden, _ = run_blocks(blocks(built), trace.hidden[0], trace, range(layers))
    assert torch.equal(hidden, trace.hidden[-1])
