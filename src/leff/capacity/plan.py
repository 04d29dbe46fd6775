"""One client's cost before anything runs: a `ClientPlan` (Table 5 and more).

    plan = client_plan(config, "generation", spec_of("leff"), ClientSetup(layers=2))
    plan.footprint.trainable_parameters, plan.footprint.weights, plan.rehearsal.peak

A plan needs only the configuration: the model is made on the meta device, without weights.
Trained layers count in fp32, as in the paper; stand-ins count in the context's bits.
"""

from dataclasses import dataclass
from functools import cached_property

from transformers import PretrainedConfig

from leff.capacity.footprint import ADAMW_BYTES, Footprint, footprint, worst_footprint
from leff.capacity.peak import predict
from leff.capacity.rehearsal import Rehearsal
from leff.capacity.sizes import FP32_BYTES, model_sizes
from leff.errors import ConfigError
from leff.methods.registry import MethodSpec
from leff.methods.setup import ClientSetup
from leff.models import empty_model, layer_count


@dataclass(frozen=True)
class ClientPlan:
    """One client's cost in one round; everything but counts and `step_flops` is in bytes.

    A block may be at any place.  Bytes are those of the place with the most state bytes; operations
    are the mean over all places.  Sent bytes leave out safetensors' headers, some 100 bytes a
    tensor.  Two things of `flora` are left out.  A fold adds at most the bytes of the weights that
    get adapters to its round.  A new client gets at most twice these bytes of earlier rounds.
    """

    config: PretrainedConfig
    kind: str
    spec: MethodSpec
    setup: ClientSetup
    footprint: Footprint
    model_layers: int  # L
    model_bytes: int  # the full model in fp32

    @property
    def gradients(self) -> int:
        return self.footprint.trainable_parameters * FP32_BYTES

    @property
    def optimizer(self) -> int:
        """AdamW's moments in fp32; for other optimizers see the rehearsal."""
        return self.footprint.trainable_parameters * ADAMW_BYTES

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """The memory of a step.  A rehearsal takes seconds for a deep model."""
        return predict(self.config, self.kind, self.spec, self.setup)


def client_plan(
    config: PretrainedConfig, kind: str, spec: MethodSpec, setup: ClientSetup
) -> ClientPlan:
    """Return a method's cost for a client with this setup.

    Raises ConfigError for layers outside 1 to L, for unknown bits, for a rank, length, batch or
    number of clients below 1, and for a method that the model does not allow.
    """
    _check(setup, config)
    model = empty_model(config, kind)
    sizes = model_sizes(model, kind)
    places = spec.stages(model, setup)[-1]
    each = [footprint(sizes, layout, setup, spec.gets_all_adapters) for layout in places]
    whole = sizes.shell_bytes() + sizes.layer_bytes(range(len(sizes.layers)))
    return ClientPlan(
        config=config,
        kind=kind,
        spec=spec,
        setup=setup,
        footprint=worst_footprint(each),
        model_layers=len(sizes.layers),
        model_bytes=whole + sizes.tail * FP32_BYTES,
    )


def _check(setup: ClientSetup, config: PretrainedConfig) -> None:
    total = layer_count(config)
    if not 1 <= setup.layers <= total:
        raise ConfigError(
            f"layers must be 1 to {total} for this {config.model_type}, got {setup.layers}"
        )
    if setup.embedding_bits not in (32, 16):
        raise ConfigError(f"embedding bits must be 32 or 16, got {setup.embedding_bits}")
    if setup.base_bits not in (32, 16, 8, 4):
        raise ConfigError(f"base bits must be 32, 16, 8 or 4, got {setup.base_bits}")
    counts = {"rank": setup.rank, "clients": setup.clients, "length": setup.length}
    for name, value in {**counts, "batch_size": setup.step.batch_size}.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
