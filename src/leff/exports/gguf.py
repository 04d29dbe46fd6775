"""A run's model as a GGUF file, which llama.cpp and what is built on it run.

    write_gguf(opened, Path("walks.gguf"), "q8_0")

Tensors have the names of the `gguf` package's maps.  The file is read again by `transformers`, and
its logits are compared with the run's, before it gets its name.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFReader,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    get_tensor_name_map,
    quants,
)
from transformers import AutoModelForCausalLM, PretrainedConfig

from leff.errors import ConfigError, RunError
from leff.exports.opened import FinishedRun
from leff.exports.probe import difference
from leff.exports.vocabulary import Vocabulary, vocabulary_of
from leff.files import whole_file
from leff.models import full_state
from leff.models.kinds import LANGUAGE_KINDS
from leff.models.quiet import quiet, without_bar

Dtype = Literal["float32", "float16", "bfloat16", "q8_0"]
ARCHITECTURES = {  # by model_type
    "gpt2": MODEL_ARCH.GPT2,
    "llama": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh")}  # those of the others: silu
TYPES: Mapping[str, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
CLOSE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 0.05, "q8_0": 0.05}
"""Largest difference of a logit, relative to the largest logit, that rounding may make."""


def write_gguf(opened: FinishedRun, out: Path, dtype: Dtype = "float32") -> None:
    """Write a run's model and tokenizer to the file `out`.

    Matrices are in `dtype`: float32, float16, bfloat16 or q8_0 (8 bits, blocks of 32 share a
    scale); a matrix whose rows are no multiple of 32 long is in float16 instead of q8_0.  Vectors
    are in float32.

    Raises ConfigError for a model or a tokenizer that llama.cpp does not have, RunError if the file
    does not give the run's logits.
    """
    if opened.kind not in LANGUAGE_KINDS:
        raise ConfigError(
            f"the model of {opened.folder.path} classifies; a GGUF file holds a model that "
            "generates text; use --merged"
        )
    model, tokenizer = opened.trained()
    config = model.config
    _check(config)
    vocabulary = vocabulary_of(tokenizer, config.vocab_size)
    with quiet(), whole_file(out) as unfinished:
        _write(opened, model, tokenizer, vocabulary, unfinished, dtype)
        _compare(model, vocabulary, unfinished, dtype)


def _check(config: PretrainedConfig) -> None:
    """Raise ConfigError for a model that llama.cpp would compute in another way."""
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"a {kind} model cannot be exported to GGUF; {', '.join(ARCHITECTURES)} can; use "
            "--merged"
        )
    activation = getattr(config, "activation_function", getattr(config, "hidden_act", None))
    if activation not in ACTIVATIONS.get(kind, ("silu",)):
        raise ConfigError(f"a {kind} model with {activation!r} is not one that llama.cpp has")
    rope = _rope(config)
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
        raise ConfigError(
            f"positions scaled by {rope['rope_type']!r} are not exported to GGUF; use --merged"
        )


def _rope(config: Any) -> dict[str, Any]:
    """Return how positions are rotated, {} for a model that has learnt positions."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _write(
    opened: FinishedRun,
    model: Any,
    tokenizer: Any,
    vocabulary: Vocabulary,
    path: Path,
    dtype: Dtype,
) -> None:
    config, (_, file_type) = model.config, TYPES[dtype]
    writer = GGUFWriter(path, config.model_type)
    writer.add_name(opened.folder.path.name)
    writer.add_description(f"fine-tuned with LEFF ({opened.config.method.name})")
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)  # of the blocks' layout
    _add_sizes(writer, config)
    vocabulary.add_to(writer)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
    for name, tensor, kind in _tensors(model, dtype):
        writer.add_tensor(name, quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    heads, width = config.num_attention_heads, config.hidden_size
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * width)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    rope, head_width = _rope(config), getattr(config, "head_dim", None) or width // heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head_width)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def _tensors(model: Any, dtype: str) -> Iterator[tuple[str, Any, GGMLQuantizationType]]:
    """Yield name, values in float32 and type of every tensor of the file."""
    config = model.config
    names = get_tensor_name_map(ARCHITECTURES[config.model_type], config.num_hidden_layers)
    for name, tensor in full_state(model).items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise ConfigError(f"{name} has no name in GGUF; use --merged")
        values = _arranged(name, tensor.float(), config).contiguous().numpy()
        yield known, values, _type_of(values.shape, dtype)
    if _rope(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config), GGMLQuantizationType.F32


def _type_of(shape: tuple[int, ...], dtype: str) -> GGMLQuantizationType:
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    if dtype == "q8_0" and shape[-1] % 32:
        return GGMLQuantizationType.F16
    return TYPES[dtype][0]


def _arranged(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Return a tensor as llama.cpp has it.

    GPT-2's modules store their matrices the other way round.  Llama's queries and keys have the
    two halves of a head's dimensions in turn, as rotary positions pair them.
    """
    if config.model_type == "gpt2" and name.endswith(
        ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    ):
        return tensor.t()
    if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _llama3_factors(config: Any) -> "np.ndarray[Any, Any]":
    """Return by what each frequency of Llama 3.1's positions is divided, (head width / 2,).

    Long waves are stretched by `factor`, short ones are left, those between are in between
    (transformers' `_compute_llama3_parameters`).
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    powers = torch.arange(0, width, 2, dtype=torch.float32) / width
    plain = 1.0 / _rope(config)["rope_theta"] ** powers
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    return (plain / scaled).numpy()


@torch.no_grad()
def _compare(model: Any, vocabulary: Vocabulary, path: Path, dtype: Dtype) -> None:
    """Raise RunError unless the file has the vocabulary, and gives the model's logits.

    Sizes are taken from the model, since the library does not read all of them from such a file.
    """
    fields = GGUFReader(path).fields
    if [bytes(part).decode() for part in _parts(fields["tokenizer.ggml.tokens"])] != list(
        vocabulary.tokens
    ):
        raise RunError("the GGUF file has another vocabulary than the run; use --merged")
    with without_bar():
        read: Any = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportUnknownMemberType]  # untyped
            path.parent, gguf_file=path.name, config=model.config, dtype=torch.float32
        )
    if (off := difference(model, read)) > CLOSE[dtype]:
        raise RunError(
            f"the GGUF file's logits differ from the run's by {off:.3g} of the largest; use "
            "--merged, or another --dtype"
        )


def _parts(field: Any) -> Iterator[Any]:
    return (field.parts[index] for index in field.data)
