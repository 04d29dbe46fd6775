"""What a client needs, before anything runs: parameters that train, bytes by role (Table 5), FLOPs.

    context = make_context("distil", rate=0.2, bits=32)
    plan(*load_config("gpt2-large"), "leff", layers=1, context=context).to_dict()

From the configuration alone: the model is made on the meta device, without weights.  What trains
is counted in fp32, as in the paper; what stands in for the other layers in the context's bits.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from leff.capacity.footprint import (
    ADAMW_BYTES,
    EXACT,
    Choice,
    Footprint,
    Weights,
    block_footprint,
    held_weights,
    shell_bits,
)
from leff.capacity.sizes import FP32_BYTES, Sizes, model_sizes
from leff.errors import ConfigError, nearest
from leff.methods.stand_ins import Context
from leff.models import bitfit_names, empty_model, full_tail_names, layer_count
from leff.models.lora import check_rank, target_shapes


@dataclass(frozen=True)
class Plan:
    """One client's cost in one round; everything but counts and `step_flops` is in bytes.

    `setup_bytes` go to a client once, before its first round; `download_bytes` and
    `upload_bytes` in every round (flora's clients begin without other clients' adapters).  They
    are tensors'; safetensors' headers beside them take some 100 bytes a tensor.
    """

    model: str
    kind: str
    method: str
    model_layers: int  # L
    block_layers: int
    stand_in_layers: int
    trainable_parameters: int
    model_bytes: int  # the full model in fp32
    weights: Weights
    gradients: int
    optimizer: int
    setup_bytes: int
    download_bytes: int
    upload_bytes: int
    step_flops: int

    @property
    def total_bytes(self) -> int:
        """Weights, gradients and optimizer state; without activations."""
        return self.weights.total + self.gradients + self.optimizer

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the bytes of the weights by role and in total."""
        values = asdict(self)
        values["weights"]["total"] = self.weights.total
        return {**values, "total_bytes": self.total_bytes}


def plan(
    config: PretrainedConfig,
    kind: str,
    method: str,
    layers: int = Choice.layers,
    *,
    context: Context | None = None,
    rank: int = Choice.rank,
    base_bits: int = Choice.base_bits,
    clients: int = Choice.clients,
    embedding_bits: int = Choice.embedding_bits,
    batch_size: int = Choice.batch_size,
    length: int = Choice.length,
    checkpointing: bool = False,
) -> Plan:
    """Return what `method` costs a client that trains `layers` layers.

    Only `leff` depends on `layers`, `context` (None leaves the other layers as they are) and
    `embedding_bits`, the methods with adapters on `rank` and `base_bits`, and `flora` on the
    number of `clients` in a round.  Blocks are drawn: bytes are those of the place where a client
    holds most, `step_flops` the mean over all places.  ConfigError for an unknown method, layers
    outside 1 to L, embedding bits other than 32 and 16, a batch without tokens, and a method that
    the model does not allow.
    """
    choice = Choice(
        layers=layers,
        context=context or EXACT,
        rank=rank,
        base_bits=base_bits,
        clients=clients,
        embedding_bits=embedding_bits,
        batch_size=batch_size,
        length=length,
        checkpointing=checkpointing,
    )
    _check(choice, config, method)
    model = empty_model(config, kind)
    sizes = model_sizes(model, kind)
    found = METHODS[method](model, sizes, choice)
    trained = found.trainable_parameters
    return Plan(
        model=config.model_type,
        kind=kind,
        method=method,
        model_layers=len(sizes.layers),
        block_layers=found.block_layers,
        stand_in_layers=found.stand_in_layers,
        trainable_parameters=trained,
        model_bytes=held_weights(sizes, range(len(sizes.layers)), embedding_bits=32).total,
        weights=found.weights,
        gradients=trained * FP32_BYTES,
        optimizer=trained * ADAMW_BYTES,
        setup_bytes=found.setup_bytes,
        download_bytes=found.download_bytes,
        upload_bytes=trained * FP32_BYTES,
        step_flops=found.step_flops,
    )


def _check(choice: Choice, config: PretrainedConfig, method: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}{nearest(method, METHODS)}")
    total = layer_count(config)
    if not 1 <= choice.layers <= total:
        raise ConfigError(
            f"layers must be 1 to {total} for this {config.model_type}, got {choice.layers}"
        )
    if choice.embedding_bits not in (32, 16):
        raise ConfigError(f"embedding bits must be 32 or 16, got {choice.embedding_bits}")
    if choice.base_bits not in (32, 16, 8, 4):
        raise ConfigError(f"base bits must be 32, 16, 8 or 4, got {choice.base_bits}")
    for name in ("rank", "clients", "batch_size", "length"):
        if getattr(choice, name) < 1:
            raise ConfigError(f"{name} must be at least 1, got {getattr(choice, name)}")


# Methods: what trains, what is held, what is sent.


def _leff(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    return block_footprint(sizes, choice)


def _fedavg(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    return block_footprint(sizes, replace(choice, layers=len(sizes.layers)))


def _fedlora(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    adapters = _adapters(model, choice)
    return _whole_model(sizes, choice, adapters + _count(model, full_tail_names(model)), adapters)


def _flora(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    """A client begins with an adapter of its own making, and gets those of all clients after."""
    plan, adapters = _slora(model, sizes, choice), _adapters(model, choice)
    return replace(
        plan, download_bytes=plan.download_bytes + (choice.clients - 1) * adapters * FP32_BYTES
    )


def _slora(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    """Stage two; in stage one there are as many sparse values, and a gradient of every weight."""
    return _fedlora(model, sizes, replace(choice, base_bits=32))


def _adapters(model: nn.Module, choice: Choice) -> int:
    """Return the number of values in adapters on every target; ConfigError for a rank too high."""
    targets = target_shapes(model)
    check_rank(targets, choice.rank, "rank")
    return sum(choice.rank * (outputs + inputs) for outputs, inputs in targets.values())


def _fedbitfit(model: nn.Module, sizes: Sizes, choice: Choice) -> Footprint:
    plain = replace(choice, base_bits=32)
    return _whole_model(sizes, plain, _count(model, bitfit_names(model)), adapters=0)


METHODS: dict[str, Callable[[nn.Module, Sizes, Choice], Footprint]] = {
    "fedavg": _fedavg,
    "leff": _leff,
    "fedbitfit": _fedbitfit,
    "fedlora": _fedlora,
    "slora": _slora,
    "flora": _flora,
    "flexlora": _fedlora,
}


def _whole_model(sizes: Sizes, choice: Choice, trained: int, adapters: int) -> Footprint:
    """The full model is held from the start, and only what trains is sent."""
    layers = range(len(sizes.layers))
    weights = Weights(
        embeddings=sizes.shell_bytes(shell_bits(choice.base_bits)),
        block=sizes.layer_bytes(layers, choice.base_bits),
        tail=sizes.tail * FP32_BYTES,
        adapters=adapters * FP32_BYTES,
    )
    return Footprint(
        trainable_parameters=trained,
        weights=weights,
        setup_bytes=weights.total - weights.adapters,
        download_bytes=trained * FP32_BYTES,
        block_layers=len(layers),
        stand_in_layers=0,
        step_flops=sizes.step_flops(
            layers,
            layers,
            batch_size=choice.batch_size,
            length=choice.length,
            checkpointing=choice.checkpointing,
            adapters=adapters,
            linear_gradients=False,
        ),
    )


def _count(model: nn.Module, names: Iterable[str]) -> int:
    parameters = dict(model.named_parameters())
    return sum(parameters[name].numel() for name in names)
