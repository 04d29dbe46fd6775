"""The bytes that one client holds and sends in a round, and the operations that it computes.

sizes = model_sizes(model, "generation")
footprint(sizes, block_layout(context, range(3, 5), layers=8), ClientSetup()).state_bytes
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from leff.capacity.job_cost import adapted_values, adapter_values, step_flops
from leff.capacity.sizes import FP32_BYTES, Sizes, count
from leff.methods.setup import ClientSetup, Layout
from leff.wire.headers import DTYPES, VALUE_BYTES
from leff.wire.messages import Upload

ADAMW_BYTES = 8  # two fp32 moments for each parameter that trains


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights that a client holds, by role."""

    embeddings: int  # with all other frozen tensors outside the layers
    block: int  # the layers that train, or whose adapters or biases train
    tail: int
    stand_in: int = 0
    adapters: int = 0

    @property
    def total(self) -> int:
        return self.embeddings + self.block + self.tail + self.stand_in + self.adapters


@dataclass(frozen=True)
class Footprint:
    """A client's cost in one round: weights, layers, trained values, operations of a step."""

    trainable_parameters: int
    weights: Weights
    block_layers: int
    stand_in_layers: int
    step_flops: int
    setup_bytes: int  # once, before a client's first round
    download_bytes: int  # per round
    upload: Upload = "full"

    @property
    def upload_bytes(self) -> int:
        """The trained values as they are sent; file headers and scales of rows are left out."""
        return self.trainable_parameters * VALUE_BYTES[DTYPES[self.upload]]

    @property
    def state_bytes(self) -> int:
        """Weights, gradients and AdamW's moments.

        `client.memory.state_bytes` measures a little more: buffers outside the layers (position
        numbers, rotary frequencies) and a step counter of 4 bytes for each trained tensor.
        """
        return self.weights.total + self.trainable_parameters * (FP32_BYTES + ADAMW_BYTES)


def footprint(
    sizes: Sizes, layout: Layout, setup: ClientSetup, all_adapters: bool = False
) -> Footprint:
    """Return the footprint of a client with this layout.

    `setup` gives the step, the length of texts and the number of clients.  A whole model is sent
    to a client once; each round sends what trains.  With `all_adapters` these are the adapters of
    all clients, or the weights beside them, if that is less.
    """
    tuned, adapters = layout.tuned, adapter_values(layout) * FP32_BYTES
    own = [s for s in layout.segments if s.trains or tuned is not None]
    others = [s for s in layout.segments if not s.trains and tuned is None]
    weights = Weights(
        embeddings=sizes.shell_bytes(layout.shell_bits),
        block=sum(sizes.layer_bytes(s.sources, s.bits) for s in own),
        tail=sizes.tail * FP32_BYTES,
        stand_in=sum(sizes.layer_bytes(s.sources, s.bits) for s in others),
        adapters=adapters,
    )
    if tuned is None:
        trained = sum(sizes.layers[i].values for i in layout.block) + sizes.tail
        setup_bytes = weights.embeddings
        download_bytes = weights.block + weights.tail + weights.stand_in
    else:
        trained = count(dict(tuned))
        setup_bytes = weights.total - weights.adapters
        download_bytes = trained * FP32_BYTES
        if all_adapters:
            dense = adapted_values(layout) * FP32_BYTES
            download_bytes += min(setup.clients * adapters, dense) - adapters
    return Footprint(
        trainable_parameters=trained,
        weights=weights,
        block_layers=len(layout.block),
        stand_in_layers=len(layout.sources) - len(layout.block),
        step_flops=step_flops(layout, sizes, setup.step, setup.length),
        setup_bytes=setup_bytes,
        download_bytes=download_bytes,
        upload=setup.upload,
    )


def worst_footprint(footprints: Sequence[Footprint]) -> Footprint:
    """Return the footprint with the most state bytes, with the mean operations of all places."""
    worst = max(footprints, key=lambda place: place.state_bytes)
    return replace(worst, step_flops=sum(p.step_flops for p in footprints) // len(footprints))
