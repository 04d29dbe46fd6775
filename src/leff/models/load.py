"""Load a model and its tokenizer for a kind of task, in full precision.

model, tokenizer = load_model("gpt2", "generation")
model, tokenizer = load_model(folder, "classification", ("no", "yes"), seed=7)
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from leff.errors import ModelError
from leff.models.activations import fuse
from leff.models.class_names import class_names, fit_head, has_classes, set_names
from leff.models.detect import family_of
from leff.models.folders import check_room, place_of
from leff.models.kinds import CLASS_KINDS, LANGUAGE_KINDS, model_class, name_loss
from leff.models.known import cannot_read, read_config, reading
from leff.models.meta import empty_model
from leff.models.quiet import quiet, without_bar
from leff.seeds import forked

OF_THIS_MACHINE = ("is_local", "local_files_only")  # the library would save them with a tokenizer
log = logging.getLogger("leff.models")


def load_model(
    name: str | Path,
    kind: str,
    labels: Sequence[str] = (),
    seed: int = 0,
    *,
    by_row: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model in fp32, in eval mode, and its tokenizer, from a folder or the hub.

    A head that the checkpoint lacks is initialised from `seed`.  A classifier gets the classes
    `labels`, or keeps its own; `by_row` is as in `class_names.fit_head`.  A regression has one
    output.  ModelError if the model is missing, has no tokenizer, cannot do this kind of task, has
    an incomplete or damaged checkpoint, or needs code of its own.
    """
    config = read_config(name)
    auto = model_class(config, kind)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"{name} is quantised, and what trains must be fp32; take the model that it was made of"
        )
    own = class_names(config)
    if kind in CLASS_KINDS:
        if labels and not has_classes(config):
            set_names(config, labels)
        one = kind == "classification"
        config.problem_type = "single_label_classification" if one else "multi_label_classification"
    elif kind == "regression":
        set_names(config, ("score",))
        config.problem_type = "regression"
    tokenizer = _load_tokenizer(name, config)
    with reading(name), forked(seed):
        if Path(name).exists():
            empty = empty_model(config, kind)
            check_room(Path(name), sum(parameter.numel() for parameter in empty.parameters()))
        place, more = place_of(name)
        with without_bar() if more else nullcontext():
            model, loading = auto.from_pretrained(
                place,
                **more,
                **(_unpacked() if more else {}),
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=kind not in LANGUAGE_KINDS,
                trust_remote_code=False,
            )
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(model)  # a GGUF file's, or the model cannot be saved
    _check_new_weights(name, kind, model, loading)
    if kind in CLASS_KINDS and labels and has_classes(config):
        fit_head(model, labels, own, by_row=by_row, seed=seed)
    name_loss(model, kind)
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()  # the file's bytes may be aligned differently: see LOG.md
    _check_finite(name, model)
    fuse(model)
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _load_tokenizer(name: str | Path, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer; refuse the empty one that the library makes without files."""
    remedy = "put the tokenizer's files (tokenizer.json and tokenizer_config.json) beside it"
    try:
        with quiet():
            place, more = place_of(name)
            loaded = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **more)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
    except Exception as error:  # damaged files make the library raise errors of any type
        if "trust_remote_code" in str(error):
            raise ModelError(cannot_read(name, error)) from error
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{name} has no tokenizer that can be read; {remedy} ({reason})"
        ) from error
    tokenizer = cast("PreTrainedTokenizerBase", loaded)
    for own in OF_THIS_MACHINE:
        cast(Any, tokenizer).init_kwargs.pop(own, None)
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"{name} has no tokenizer; {remedy}")
    count = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))  # ids may have gaps
    if count > config.vocab_size:
        raise ModelError(
            f"the tokenizer of {name} has {count} tokens, the model only "
            f"{config.vocab_size}; they do not belong together, so {remedy}"
        )
    return tokenizer


def _check_finite(name: str | Path, model: nn.Module) -> None:
    """Refuse weights with a NaN or an infinity: nothing can be learnt from them."""
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"{key} of {name} is not finite; take a sound checkpoint")


def _unpacked() -> dict[str, Any]:
    """Return what has the library unpack a GGUF file's weights: packed ones cannot train.

    A library that does not know the option always unpacks them.
    """
    known = getattr(transformers, "GgufConfig", None)
    return {} if known is None else {"quantization_config": known(dequantize=True)}


def _check_new_weights(
    name: str | Path, kind: str, model: nn.Module, loading: Mapping[str, Any]
) -> None:
    """Refuse weights that the checkpoint lacks, except those of a new classification head."""
    resized = {entry[0] for entry in loading["mismatched_keys"]}
    new = sorted({*loading["missing_keys"], *resized})
    family = family_of(model)
    heads = tuple(f"{path}." for path in family.tail)
    wrong = [key for key in new if kind in LANGUAGE_KINDS or not key.startswith(heads)]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ModelError(
            f"the checkpoint of {name} does not fit its config: no weights for "
            f"{', '.join(wrong[:4])}{more}; take a complete {family.name} checkpoint"
        )
    if new:
        log.info("%s: new weights for %s", name, ", ".join(new))
