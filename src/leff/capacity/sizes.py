"""A model's sizes by role, and what follows for a client: bytes it holds, operations of a step.

    sizes = model_sizes(empty_model(config, "generation"), "generation")
    sizes.layers[0].bytes(8), sizes.step_flops(sources, trained, batch_size=16, length=128)

Operations are those of matrix products, a multiplication and an addition being two.
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
    """One transformer layer: how many values, and the shapes (out, in) of its linear weights."""

    values: int
    linears: tuple[tuple[int, int], ...]

    @property
    def linear_values(self) -> int:
        return sum(outputs * inputs for outputs, inputs in self.linears)

    def bytes(self, bits: int) -> int:
        """Return its bytes with linear weights in `bits`; norms and biases stay fp32.

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
    """What a plan is made from; counts of values, not bytes."""

    layers: tuple[LayerSize, ...]
    shell: int  # embeddings, and all else that is frozen outside the layers
    words: int  # of them, the word matrix, and a frozen head of its own
    tail: int  # what always trains
    attention_width: int  # D of the attention: heads times their width
    head: int  # linear weights after the layers
    trained_head: int  # of them, those that train
    head_tokens_all: bool  # a language model's head reads every token, a classifier's one a row

    def shell_bytes(self, embedding_bits: int = 32) -> int:
        """Return the frozen part's bytes, its words in 32 or 16 bits."""
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

        The client's layers stand for `sources` of the full model, and those at the positions in
        `trained` train.  Forward: 2 a linear weight and token, 4·B·T²·D of attention a layer
        (scores and values), the head.  Backward: from the lowest trained layer up, gradients of
        inputs (once the linear part, twice the attention's, since both of its factors are
        inputs) and the head's; for what trains, gradients of weights (once the linear part).
        Adapters take 6 a value and token; biases alone (no `linear_gradients`) nothing.  With
        `checkpointing` these layers' forward pass comes twice.

        Left out: norms, softmax, activations, embedding lookups, dequantisation, the optimizer.
        Too low for DeBERTa: its relative positions add to attention, and since its tail feeds
        every layer, gradients go through all of them whatever the block.
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


def count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the number of values in tensors of these shapes."""
    return sum(math.prod(shape) for shape in shapes.values())


def model_sizes(model: Any, kind: str) -> Sizes:
    """Return the sizes of a model, which may be on the meta device."""
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
