"""Adapters that peft loads: equal logits, the rank that the change has, and what is refused."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import leff
from leff.errors import ConfigError, DataError
from leff.exports import adapter
from leff.exports.adapter import changed_products
from leff.exports.probe import difference

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # peft's calls
METHODS = ("fedlora", "slora", "flora", "flexlora")
RANKS = {"fedlora": 8, "slora": 8}  # those of the others grow with clients and rounds


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["text", "classification"])
def test_peft_gives_the_logits_of_the_run(method, kind, finished, tmp_path):
    opened = finished(method, kind)
    written = leff.export(opened.folder.path, adapter=tmp_path / "adapter")
    assert written["rank"] == RANKS.get(method, written["rank"])
    auto = AutoModelForCausalLM if kind == "text" else AutoModelForSequenceClassification
    more = {} if kind == "text" else {"num_labels": 3, "ignore_mismatched_sizes": True}
    base = auto.from_pretrained(opened.config.model.name, **more)
    trained = opened.trained()[0]
    assert difference(trained, base) > 1e-3  # the run changed something
    read = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert difference(trained, read) < 1e-5
    assert difference(trained, read.merge_and_unload()) < 1e-5


def test_a_run_that_went_on_from_another_has_an_adapter_of_its_model(finished, tmp_path):
    first = finished("fedlora")
    second = finished("fedlora", start=first.folder.path, seed=7)
    written = leff.export(second.folder.path, adapter=tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(first.model_folder)
    read = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert difference(second.trained()[0], read) < 1e-5
    assert written["rank"] == 8


def test_the_folder_says_what_it_is(finished, tmp_path):
    opened = finished("fedlora", "classification")
    leff.export(opened.folder.path, adapter=tmp_path / "adapter")
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == opened.config.model.name
    assert values["task_type"] == "SEQ_CLS"
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "num_labels=3" in card
    assert "| method | fedlora |" in card


def test_nobody_is_asked_for_a_base_of_the_hub(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter, "base_name", lambda config: ("someone/walks", True))
    leff.export(finished("fedlora").folder.path, adapter=tmp_path / "a")  # or peft would warn
    values = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert values["base_model_name_or_path"] == "someone/walks"


@pytest.mark.parametrize("method", ["leff", "fedavg", "fedbitfit"])
def test_what_trains_more_than_adapters_has_none(method, finished, tmp_path):
    opened = finished(method)
    with pytest.raises(ConfigError, match=r"trains more than adapters.*--merged.*--difference"):
        leff.export(opened.folder.path, adapter=tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_refused(finished, tmp_path, monkeypatch):
    opened = finished("fedlora", seed=3)
    weights = opened.folder.path.parent / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\0\0\0")
    try:
        with pytest.raises(DataError, match=r"is not the model that .* began with"):
            leff.export(opened.folder.path, adapter=tmp_path / "adapter")
    finally:
        weights.write_bytes(before)


def test_an_adapter_that_is_not_the_run_is_not_written(finished, tmp_path, monkeypatch):
    def halved(*arguments):
        return {m: (b / 2, a) for m, (b, a) in changed_products(*arguments).items()}

    monkeypatch.setattr(adapter, "changed_products", halved)
    with pytest.raises(leff.errors.RunError, match="logits differ"):
        leff.export(finished("fedlora").folder.path, adapter=tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "shape"), [(1, (80, 200)), (40, (300, 200)), (70, (80, 90))])
def test_the_rank_is_the_one_that_the_change_has(rank, shape):
    torch.manual_seed(0)
    product = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
    u, s, vt = adapter._largest(product.double(), 1e-6 * float(product.norm()))
    assert s.shape == (rank,)
    torch.testing.assert_close((u * s) @ vt, product.double(), rtol=0, atol=1e-4)


def test_a_change_of_nothing_has_rank_one():
    assert adapter._largest(torch.zeros(80, 90).double(), 0.0)[1].tolist() == [0.0]
