"""Which Hugging Face class serves which kind of task.

model_class(GPT2Config(), "classification")      # AutoModelForSequenceClassification
"""

from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
)

from leff.errors import ModelError, nearest

LANGUAGE_KINDS = ("generation", "text", "chat")
CLASS_KINDS = ("classification", "multilabel")  # one class of several, or any number of them
LABEL_KINDS = (*CLASS_KINDS, "regression")
LEVELLED_KINDS = ("classification", "regression")  # whose heads `training.levelled` moves
KINDS = LANGUAGE_KINDS + LABEL_KINDS


def fits(config: PretrainedConfig, kind: str) -> bool:
    """Return whether the architecture can do a task of this kind.

    The library has causal heads for encoders too, but an encoder reads in both directions and
    cannot generate unless `is_decoder` is set.  Encoders are the types with a masked-token head.
    """
    if kind in LABEL_KINDS:
        return type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    bidirectional = type(config) in MODEL_FOR_MASKED_LM_MAPPING
    return (
        type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
        and not getattr(config, "is_encoder_decoder", False)
        and (not bidirectional or bool(getattr(config, "is_decoder", False)))
    )


def model_class(config: PretrainedConfig, kind: str) -> Any:
    """Return the auto class for a kind of task; ModelError if the architecture cannot do it."""
    if kind not in KINDS:
        raise ModelError(f"unknown kind of task {kind!r}{nearest(kind, KINDS)}")
    if not fits(config, kind):
        others = [other for other in KINDS if fits(config, other)]
        remedy = f"use it for {' or '.join(others)}" if others else "take a text model"
        if kind in LANGUAGE_KINDS:
            raise ModelError(
                f"a {config.model_type} model cannot generate text from left to right; {remedy}, "
                f"or take a decoder such as gpt2 or llama for {kind!r}"
            )
        raise ModelError(f"a {config.model_type} model has no head for {kind!r}; {remedy}")
    return AutoModelForCausalLM if kind in LANGUAGE_KINDS else AutoModelForSequenceClassification


def name_loss(model: Any, kind: str) -> None:
    """Set the loss of a language model whose class name does not imply one, such as GPT-2's.

    The library would choose the same loss, with a warning.
    """
    if kind in LANGUAGE_KINDS and model.loss_type is None:
        model.loss_type = "ForCausalLM"
