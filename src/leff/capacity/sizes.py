"""A model's sizes by role, and from them a client's bytes and the operations of its step.

    sizes = model_sizes(empty_model(config, "generation"), "generation")
    sizes.layers[0].bytes(8), sizes.step_flops(sources, trained, batch_size=16, length=128)

Only matrix products count as operations.  A multiplication and an addition count as two.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from leff.models import (
    blocks,
    family_of,
    frozen_words,
    linear_shape,
    shell_state,
    tail_state,
    trainable_names,
)
from leff.models.kinds import LANGUAGE_KINDS

FP32_BYTES = 4
NF4_GROUP = 64  # weights that share a scale in bitsandbytes' 4-bit format


@dataclass(frozen=True)
class LayerSize:
    """One transformer layer: its number of values and its linear weights' shapes (out, in)."""

    values: int
    linears: tuple[tuple[int, int], ...]

    @property
    def linear_values(self) -> int:
        return sum(outputs * inputs for outputs, inputs in self.linears)

    def bytes(self, bits: int) -> int:
        """Return the layer's bytes with linear weights in `bits`; norms and biases stay fp32.

        16 bits: two bytes a weight (bfloat16).  8 bits: a byte a weight and an fp32 scale for each
        output row (LLM.int8).  4 bits: half a byte, and an fp32 scale for every 64 weights (NF4).
        """
        others = (self.values - self.linear_values) * FP32_BYTES
        return others + sum(_matrix_bytes(*shape, bits) for shape in self.linears)


def _matrix_bytes(rows: int, columns: int, bits: int) -> int:
    count = rows * columns
    if bits == 16:
        return 2 * count
    if bits == 8:
        return count + rows * FP32_BYTES
    if bits == 4:
        return math.ceil(count / 2) + math.ceil(count / NF4_GROUP) * FP32_BYTES
    return count * FP32_BYTES


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model, in values and not in bytes."""

    layers: tuple[LayerSize, ...]
    shell: int  # embeddings, and all other frozen tensors outside the layers
    words: int  # the part of `shell` in the word matrix and in a frozen, untied head
    tail: int  # the tensors that every client trains
    attention_width: int  # D of the attention: the number of heads times their width
    head: int  # linear weights after the layers
    trained_head: int  # the part of `head` that trains
    head_tokens_all: bool  # a language model's head reads all tokens, a classifier's one a row

    def shell_bytes(self, embedding_bits: int = 32) -> int:
        """Return the bytes of the shell, with its words in 32 or 16 bits."""
        return self.shell * FP32_BYTES - self.words * (FP32_BYTES - embedding_bits // 8)

    def layer_bytes(self, layers: Iterable[int], bits: int = 32) -> int:
        return sum(self.layers[layer].bytes(bits) for layer in layers)

    def step_flops(
        self,
        sources: Sequence[int],
        trained: Container[int],
        *,
        batch_size: int,
        length: int,
        checkpointing: bool = False,
        adapters: int = 0,
        linear_gradients: bool = True,
    ) -> int:
        """Return the operations of one training step on `batch_size` × `length` tokens.

        The client's layers stand for `sources` of the full model; layers at the positions in
        `trained` train.  Forward: 2 per linear weight and token, 4·B·T²·D of attention per layer
        (scores and values), and the head.  Backward, from the lowest trained layer up: gradients of
        inputs cost the linear part once, the attention twice (both of its factors are inputs), and
        the head once.  Gradients of trained weights cost the linear part once more.  Adapters cost
        6 per value and token; biases alone (no `linear_gradients`) cost nothing.  `checkpointing`
        repeats the forward pass from the lowest trained layer up.

        Left out: norms, softmax, activations, embedding lookups, dequantisation, the optimizer.
        The result is too low for DeBERTa: relative positions add to attention, and gradients go
        through all layers, since the tail feeds every layer.
        """
        tokens = batch_size * length
        linear = [2 * self.layers[source].linear_values * tokens for source in sources]
        attention = 4 * batch_size * length**2 * self.attention_width
        lowest = min((i for i in range(len(sources)) if i in trained), default=len(sources))
        head_tokens = tokens if self.head_tokens_all else batch_size
        forward = sum(linear) + len(linear) * attention + 2 * self.head * head_tokens
        above = linear[lowest:]
        inputs = sum(above) + 2 * len(above) * attention + 2 * self.head * head_tokens
        weights = 2 * self.trained_head * head_tokens + 6 * adapters * tokens
        if linear_gradients:
            weights += sum(flops for i, flops in enumerate(linear) if i in trained)
        again = sum(above) + len(above) * attention if checkpointing else 0
        return forward + inputs + weights + again

    def full_step_flops(self, batch_size: int, length: int) -> int:
        """Return the operations of a step in which all layers train, as under FedAvg."""
        every = range(len(self.layers))
        return self.step_flops(every, every, batch_size=batch_size, length=length)


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of values in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def model_sizes(model: Any, kind: str) -> Sizes:
    """Return the sizes of a model; the model may be on the meta device."""
    config, inside = model.config, f"{family_of(model).blocks}."
    tail = set(trainable_names(model, ()))
    head = {
        f"{name}.weight": math.prod(shape)
        for name, module in model.named_modules()
        if not name.startswith(inside) and (shape := linear_shape(module))
    }
    heads = config.num_attention_heads
    return Sizes(
        layers=tuple(_layer_size(layer) for layer in blocks(model)),
        shell=sum(tensor.numel() for tensor in shell_state(model).values()),
        words=sum(weight.numel() for weight in frozen_words(model)),
        tail=sum(tensor.numel() for tensor in tail_state(model).values()),
        attention_width=heads * (getattr(config, "head_dim", None) or config.hidden_size // heads),
        head=sum(head.values()),
        trained_head=sum(count for name, count in head.items() if name in tail),
        head_tokens_all=kind in LANGUAGE_KINDS,
    )


def _layer_size(layer: nn.Module) -> LayerSize:
    shapes = (linear_shape(module) for module in layer.modules())
    return LayerSize(
        values=sum(parameter.numel() for parameter in layer.parameters()),
        linears=tuple(shape for shape in shapes if shape),
    )
