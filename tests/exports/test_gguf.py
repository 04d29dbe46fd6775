"""GGUF files: read again by transformers, with equal logits and the tokenizer's tokens."""

from types import SimpleNamespace

import pytest
import torch
from gguf import GGUFReader
from tiny_tokenizers import END, START, byte_level
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

import leff
from leff.errors import ConfigError, RunError
from leff.exports import gguf
from leff.exports.gguf import CLOSE, write_gguf
from leff.exports.probe import difference
from leff.exports.vocabulary import LLAMA3, vocabulary_of
from leff.models import load_model

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "vocab_size": 300,
}
CONFIGS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=300),
    "llama": LlamaConfig(**SIZES),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True),
    "llama-theta": LlamaConfig(
        **SIZES, rope_parameters={"rope_theta": 500.0, "rope_type": "default"}
    ),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
}


NOT_READ = ("gpt2", "qwen3")  # transformers takes positions and width of heads for the usual ones


def pairs() -> PreTrainedTokenizerFast:
    """As GPT-2's: bytes, and merges of them."""
    merges = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d"), ("Ġ", "the")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [END, *alphabet, *("".join(pair) for pair in merges)]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(names)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, bos_token=END)


def pieces() -> PreTrainedTokenizerFast:
    """As Llama 2's: pieces with merges, bytes for what is in none."""
    small = ["▁", "t", "h", "e", "a", "n", "d", "▁t", "he", "▁the", "an", "and"]
    names = ["<unk>", START, END, *(f"<0x{b:02X}>" for b in range(256)), *small]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "n"), ("an", "d")]
    inner = Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(names)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    inner.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token=START, eos_token=END
    )


def opened(folder, config, tokenizer):
    """Return what stands for a finished run, with a random model of this configuration."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return SimpleNamespace(
        kind="text",
        trained=lambda: load_model(folder, "text"),
        folder=SimpleNamespace(path=folder),
        config=SimpleNamespace(method=SimpleNamespace(name="leff")),
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", CLOSE)
def test_transformers_reads_the_same_model(name, dtype, tmp_path):
    run, file = opened(tmp_path / "model", CONFIGS[name], pairs()), tmp_path / "x.gguf"
    write_gguf(run, file, dtype)
    own = {"config": CONFIGS[name]} if name in NOT_READ else {}
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="x.gguf", dtype=torch.float32, **own
    )
    assert read.config.model_type == CONFIGS[name].model_type
    assert difference(run.trained()[0], read) < (1e-5 if dtype == "float32" else CLOSE[dtype])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_smaller_types_make_smaller_files(tmp_path):
    run = opened(tmp_path / "model", CONFIGS["llama"], pairs())
    sizes = {}
    for dtype in ("float32", "float16", "q8_0"):
        write_gguf(run, tmp_path / f"{dtype}.gguf", dtype)
        sizes[dtype] = (tmp_path / f"{dtype}.gguf").stat().st_size
    assert sizes["q8_0"] < 0.7 * sizes["float16"] < 0.5 * sizes["float32"]


def test_a_file_with_other_logits_is_not_written(tmp_path, monkeypatch):
    run = opened(tmp_path / "model", CONFIGS["llama"], pairs())
    monkeypatch.setattr(gguf, "_arranged", lambda name, tensor, config: tensor)
    with pytest.raises(RunError, match="logits differ"):
        write_gguf(run, tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_positions_stretched_as_in_llama_3(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = LlamaConfig(**SIZES, rope_parameters=rope)
    write_gguf(opened(tmp_path / "model", config, pairs()), tmp_path / "x.gguf")
    tensors = {t.name: t.data for t in GGUFReader(tmp_path / "x.gguf").tensors}
    factors = tensors["rope_freqs.weight"]
    waves = 2 * torch.pi * 10000.0 ** (torch.arange(0, 8, 2) / 8)
    # waves above 32 / 1 are stretched by 8, waves below 32 / 4 are left
    assert factors[waves.numpy() > 32].tolist() == pytest.approx([8.0, 8.0, 8.0])
    assert factors[waves.numpy() < 8].tolist() == pytest.approx([1.0])


def test_pieces_of_sentencepiece_are_the_tokens_that_transformers_reads(tmp_path):
    tokenizer = pieces()
    run = opened(tmp_path / "model", CONFIGS["llama"], tokenizer)
    write_gguf(run, tmp_path / "x.gguf")
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    for text in ("the hand", "then and there", "zebra", "é"):
        assert read(text).input_ids == tokenizer(text).input_ids


def test_byte_level_pairs_have_merges_and_the_way_that_texts_are_split(tmp_path):
    found = vocabulary_of(pairs(), 300)
    assert (found.model, found.split, found.special) == ("gpt2", "gpt-2", {"bos": 0, "eos": 0})
    assert len(found.tokens) == 300
    assert found.tokens[-1] == "[PAD299]"  # the model has more rows than the tokenizer tokens


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.ByteLevel(add_prefix_space=False)], "gpt-2"),
        (
            [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
            "smollm",
        ),
        (
            [
                pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
            "llama-bpe",
        ),
        (
            [
                pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ],
            "qwen2",
        ),
    ],
)
def test_known_ways_to_split_texts(steps, name):
    tokenizer = pairs()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    assert vocabulary_of(tokenizer, 262).split == name


def test_unknown_tokenizers_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="it merges no pairs"):
        vocabulary_of(byte_level(), 300)
    tokenizer = pairs()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="rules of its own; use --merged"):
        vocabulary_of(tokenizer, 300)
    tokenizer = pairs()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ConfigError, match="changes texts before it splits them"):
        vocabulary_of(tokenizer, 300)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            OPTConfig(
                hidden_size=32,
                ffn_dim=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                vocab_size=300,
                word_embed_proj_dim=32,
            ),
            "a opt model cannot be exported",
        ),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "'gelu' is not one that llama.cpp has"),
        (
            LlamaConfig(
                **SIZES,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ),
            "scaled by 'yarn'",
        ),
    ],
)
def test_unknown_models_are_refused(config, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        write_gguf(opened(tmp_path / "model", config, pairs()), tmp_path / "x.gguf")


def test_a_classifier_is_refused(finished, tmp_path):
    opened = finished("fedavg", "classification")
    with pytest.raises(ConfigError, match="classifies; a GGUF file"):
        leff.export(opened.folder.path, gguf=tmp_path / "x.gguf")


@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("q8_0", 0.05)])
def test_a_gguf_file_is_a_model_to_start_from(dtype, most, tmp_path):
    run = opened(tmp_path / "model", CONFIGS["llama"], pieces())
    write_gguf(run, tmp_path / "base.gguf", dtype)
    model, tokenizer = load_model(tmp_path / "base.gguf", "text")
    assert difference(run.trained()[0], model) < most
    assert all(own.requires_grad and own.is_floating_point() for own in model.parameters())
    assert tokenizer("the").input_ids == pieces()("the").input_ids
    model.save_pretrained(tmp_path / "saved")  # as a run does at its end
    assert difference(AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), model) < 1e-6


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2"])
def test_llama_cpp_gives_the_same_tokens_and_logits(name, tmp_path):
    """Its package is built from source, which takes an hour on two cores."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer = pieces() if name == "llama" else pairs()
    run, file = opened(tmp_path / "model", CONFIGS[name], tokenizer), tmp_path / "x.gguf"
    write_gguf(run, file)
    model, _ = run.trained()
    read = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    text = "the hand and then"
    ids = read.tokenize(text.encode(), special=False)
    assert ids == tokenizer(text).input_ids
    read.eval(ids)
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    found = torch.tensor(read.scores[: len(ids)])
    assert float((found - wanted).abs().max()) < 1e-3 * float(wanted.abs().max())
