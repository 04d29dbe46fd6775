"""Configurations: known by name without the hub, from a folder or a file, and as JSON.

    config, kind = load_config("llama-3.1-8b")       # no weights, no network

The paper's models are known by name (Table 5).  Their values are those of their `config.json` on
the hub.
"""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    DebertaV2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from leff.errors import LeffError, ModelError, shown
from leff.models.folders import check_config, check_files, is_gguf, place_of
from leff.models.kinds import KINDS, fits
from leff.models.quiet import quiet

OWN_IMPLEMENTATIONS = (None, "eager", "sdpa", "batched_mm", "grouped_mm")  # transformers' own


def _gpt2(width: int, layers: int, heads: int) -> tuple[PretrainedConfig, str]:
    return GPT2Config(n_embd=width, n_layer=layers, n_head=heads), "generation"


def _deberta_v3(width: int, layers: int, heads: int) -> tuple[PretrainedConfig, str]:
    values: dict[str, Any] = {
        "vocab_size": 128100,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_buckets": 256,
        "position_biased_input": False,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "layer_norm_eps": 1e-7,
        "pooler_hidden_size": width,
        "num_labels": 2,
    }
    return DebertaV2Config(**values), "classification"


def _llama_8b() -> tuple[PretrainedConfig, str]:
    rope: Any = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        bos_token_id=128000,
        eos_token_id=128001,
        tie_word_embeddings=False,
    )
    return config, "generation"


KNOWN_CONFIGS: dict[str, Callable[[], tuple[PretrainedConfig, str]]] = {
    "gpt2": lambda: _gpt2(768, 12, 12),
    "gpt2-medium": lambda: _gpt2(1024, 24, 16),
    "gpt2-large": lambda: _gpt2(1280, 36, 20),
    "deberta-v3-base": lambda: _deberta_v3(768, 12, 12),
    "deberta-v3-large": lambda: _deberta_v3(1024, 24, 16),
    "llama-3.1-8b": _llama_8b,
}


def load_config(name: str | Path) -> tuple[PretrainedConfig, str]:
    """Return the configuration of a known name, a folder, a `config.json` or a hub id, and a kind.

    The kind of task is the one of the checkpoint's own head.  Without a head it is generation for
    a decoder and classification for an encoder.  ModelError if no configuration can be read.
    """
    if str(name) in KNOWN_CONFIGS:
        return KNOWN_CONFIGS[str(name)]()
    config = read_config(name)
    heads = " ".join(getattr(config, "architectures", None) or [])
    if "SequenceClassification" in heads:
        problem = getattr(config, "problem_type", None) or ""
        kinds = {"regression": "regression", "multi_label_classification": "multilabel"}
        return config, kinds.get(problem, "classification")
    kind = next((kind for kind in KINDS if fits(config, kind)), None)
    if kind is None:
        raise ModelError(
            f"{name} is a {config.model_type} model, which neither generates text nor classifies "
            "it; take a text decoder or encoder"
        )
    return config, kind


def read_config(name: str | Path) -> PretrainedConfig:
    """Return the configuration in a folder, a file or on the hub; ModelError if there is none."""
    path = Path(name)
    if not path.exists() and looks_like_a_path(name):
        raise ModelError(f"there is no model at {name}; give a folder, a GGUF file or a hub id")
    if path.is_file() and path.suffix not in (".json", ".gguf"):
        raise ModelError(f"{name} is no model; give a folder, a GGUF file or a hub id")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"the folder {name} has no config.json, so it holds no model")
    if path.is_dir():
        check_files(path)
    with reading(name):
        place, more = place_of(name)
        values, _ = PretrainedConfig.get_config_dict(place, **more)  # pyright: ignore[reportUnknownMemberType]  # untyped
        check_config(values, name)
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **more)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped


@contextmanager
def reading(name: str | Path) -> Generator[None]:
    """Turn whatever the library raises in the body into a ModelError of one line.

    Damaged and hostile files make it raise errors of any type.
    """
    try:
        with quiet():
            yield
    except LeffError:
        raise
    except Exception as error:
        raise ModelError(cannot_read(name, error)) from error


def looks_like_a_path(name: str | Path) -> bool:
    """Return whether a name can only be a path, since a hub id is `name` or `owner/name`."""
    text = str(name)
    starts = text.startswith((".", "/", "~"))
    return isinstance(name, Path) or starts or text.count("/") > 1 or is_gguf(name)


def cannot_read(name: str | Path, error: Exception) -> str:
    """Return the message for a model that the library could not read."""
    reason = " ".join(" ".join(str(error).split("\n")[:2]).split())[:300] or type(error).__name__
    if "trust_remote_code" in str(error):
        return f"{name} needs code of its own, which LEFF never runs; take a model without it"
    if isinstance(error, UnpicklingError):
        return (
            f"the weights of {name} are a pickle with more than tensors; save them as safetensors"
        )
    if Path(name).exists():
        return f"cannot read the model at {name}: {reason}"
    return (
        f"cannot get {name} from the hub: {reason} Check the name and the connection, or give a "
        f"folder that holds the model; known without the hub, for plans: {', '.join(KNOWN_CONFIGS)}"
    )


def config_to_json(config: PretrainedConfig) -> str:
    """Return a configuration as JSON that `config_from_json` reads."""
    return config.to_json_string(use_diff=False)


def config_from_json(text: str) -> PretrainedConfig:
    """Return the configuration that `config_to_json` wrote; ModelError for any other text.

    The text may come from a message, so one that has transformers fetch code is refused too.
    """
    try:
        values = json.loads(text)
        _refuse_code(values)
        config = AutoConfig.for_model(values.pop("model_type"))  # pyright: ignore[reportUnknownMemberType]  # untyped
        return config.from_dict(values)  # pyright: ignore[reportUnknownMemberType]  # untyped
    except (
        *(ValueError, KeyError, AttributeError, TypeError, RecursionError),
        StrictDataclassError,
    ) as error:
        raise ModelError(f"this is no model configuration: {error}") from error


def _refuse_code(values: object) -> None:
    """Raise ModelError for an implementation that is not transformers' own.

    Others are fetched from the hub by their name and run, where the package `kernels` is installed.
    """
    if isinstance(values, list):
        for each in cast("list[object]", values):
            _refuse_code(each)
    elif isinstance(values, dict):
        for key, value in cast("dict[str, object]", values).items():
            if key.endswith("_implementation") and value not in OWN_IMPLEMENTATIONS:
                raise ModelError(
                    f"a model configuration names {key} = {shown(value)}, code that would have to "
                    f"be fetched; these are run: {', '.join(filter(None, OWN_IMPLEMENTATIONS))}"
                )
            _refuse_code(value)
