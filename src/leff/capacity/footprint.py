"""What one client holds and computes in one round, from a model's sizes.

sizes = model_sizes(model, "generation")
block_footprint(sizes, Choice(layers=2, context=make_context("quantise", bits=8))).state_bytes
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from leff.capacity.sizes import FP32_BYTES, Sizes
from leff.methods.stand_ins.stand_in import Context, Recipe, Span
from leff.models.hardware import Precision
from leff.models.optimizer import Optimizer

ADAMW_BYTES = 8  # two fp32 moments for each parameter that trains
EXACT = Context(Recipe(), Recipe())  # the other layers as they are


@dataclass(frozen=True)
class Choice:
    """What is asked for: the block's layers, what is around it, and a step's batch."""

    layers: int = 1  # L_i; for leff
    context: Context = EXACT  # for leff
    rank: int = 8  # R; for the methods with adapters, Table 5
    base_bits: int = 32  # of the linear weights beside adapters: 32, 16, 8 or 4
    clients: int = 8  # in a round; for flora, whose clients get all adapters
    embedding_bits: int = 32  # of the frozen word matrix: 32 or 16
    batch_size: int = 16
    length: int = 128  # tokens
    labelled: float = 1.0  # share of a text's tokens that have a label
    precision: Precision = "float32"  # of matrix products
    accumulation: int = 1  # parts in which a batch is done; divides batch_size
    checkpointing: bool = False
    optimizer: Optimizer = "adamw"
    proximal: float = 0.0  # μ of FedProx, which keeps what the weights were


def shell_bits(base_bits: int) -> int:
    """Return the bits of the word embeddings beside linear weights of `base_bits`."""
    return 32 if base_bits == 32 else 16


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights that a client holds, by role."""

    embeddings: int  # and all else that is frozen outside the layers
    block: int  # the layers that train, or that adapters and biases train in
    tail: int
    stand_in: int = 0
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.embeddings + self.block + self.tail + self.stand_in + self.adapters


@dataclass(frozen=True)
class Footprint:
    """What a client has in one round: weights, layers, what trains, operations of a step."""

    trainable_parameters: int
    weights: Weights
    block_layers: int
    stand_in_layers: int
    step_flops: int
    setup_bytes: int  # once, before a client's first round
    download_bytes: int  # per round

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and AdamW's moments.

        What `client.memory.state_bytes` measures has two trifles more: buffers outside the layers
        (position numbers, rotary frequencies) and 4 bytes of step counter a trained tensor.
        """
        return self.weights.total + self.trainable_parameters * (FP32_BYTES + ADAMW_BYTES)


def block_footprint(sizes: Sizes, choice: Choice) -> Footprint:
    """Return the footprint of a block of `choice.layers` layers in `choice.context`.

    Bytes and layers are those of the place where most is held, operations the mean of all places.
    """
    places = footprints(sizes, choice)
    worst = max(places, key=lambda place: place.state_bytes)
    return replace(worst, step_flops=sum(p.step_flops for p in places) // len(places))


def footprints(sizes: Sizes, choice: Choice) -> list[Footprint]:
    """Return the footprint at every place of the block, from the first to the last."""
    starts = range(len(sizes.layers) - choice.layers + 1)
    return [placed(sizes, range(k, k + choice.layers), choice) for k in starts]


def placed(sizes: Sizes, block: range, choice: Choice) -> Footprint:
    """Return the footprint of this block in `choice.context`."""
    spans = choice.context.spans(block, len(sizes.layers))
    own = Span(block.start, block.stop, len(block))
    first = sum(span.layers for span in spans if span < own)
    stand_in = sum(sizes.layer_bytes(span.sources, span.bits) for span in spans)
    weights = held_weights(sizes, block, choice.embedding_bits, stand_in=stand_in)
    return Footprint(
        trainable_parameters=sum(sizes.layers[i].values for i in block) + sizes.tail,
        weights=weights,
        setup_bytes=weights.embeddings,
        download_bytes=weights.block + weights.tail + weights.stand_in,
        block_layers=len(block),
        stand_in_layers=sum(span.layers for span in spans),
        step_flops=sizes.step_flops(
            [source for span in sorted((*spans, own)) for source in span.sources],
            range(first, first + len(block)),
            batch_size=choice.batch_size,
            length=choice.length,
            checkpointing=choice.checkpointing,
        ),
    )


def held_weights(
    sizes: Sizes, block: Iterable[int], embedding_bits: int, stand_in: int = 0
) -> Weights:
    """Return the weights of a client that trains `block`."""
    return Weights(
        embeddings=sizes.shell_bytes(embedding_bits),
        block=sizes.layer_bytes(block),
        tail=sizes.tail * FP32_BYTES,
        stand_in=stand_in,
    )
