"""The table of methods.  Other rooms know a method only by its entry here.

    spec_of("fedlora").options                  # ("method.rank", "method.lora_alpha", ...)
    register(MethodSpec(name="mine", build=..., stages=...))

Another package adds a method by this call, or by an entry point of the group `leff.methods` that
names a `MethodSpec` (docs/do/own-method.md has an example).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from leff.errors import ConfigError, nearest
from leff.methods.aggregate import Merge
from leff.methods.assignment import Assignment
from leff.methods.fedavg import FedAvg
from leff.methods.fedbitfit import FedBitFit
from leff.methods.fedlora import FedLora
from leff.methods.flexlora import FlexLora
from leff.methods.flora import FLora
from leff.methods.jobs import JobWriter
from leff.methods.leff import Leff
from leff.methods.method import Method
from leff.methods.sampling import BlockSampler, Rule
from leff.methods.setup import (
    ClientSetup,
    Layout,
    Shapes,
    block_layout,
    block_layouts,
    whole_layout,
)
from leff.methods.slora import SLora
from leff.methods.stand_ins import EXACT, Bank, Batch, Distillation
from leff.methods.whole import WholeModel, own_parameters, shapes_of
from leff.models import bitfit_names, blocks, lora, sparse
from leff.units import share_of

GROUP = "leff.methods"  # the group of entry points
LITTLE = 4.0  # rate_factor of methods that train little: between 1.25 and 10 in `results/mini`
ADAPTERS = ("method.rank", "method.lora_alpha")
BLOCK_OPTIONS = (
    *(f"method.{each.name}" for each in fields(Rule) if each.name != "batches"),
    *("method.relaxation", "method.momentum", "context", "proxy", "clients.layers"),
    *("clients.flops", "evaluation.gap_clients", "evaluation.gradient_error"),
)


@dataclass(frozen=True)
class BlockParts:
    """The parts of a method that trains blocks among stand-ins: see `Leff`."""

    assignment: Assignment
    rule: Rule
    distillation: Distillation
    merge: Merge
    proxy: Sequence[Batch]
    embedding_bits: int = 32
    sizes: Sequence[int] = ()  # of clients, in turn, as far as known


@dataclass(frozen=True)
class Ingredients:
    """The arguments of `MethodSpec.build`.  `parts` is set for methods that `trains_blocks`."""

    writer: JobWriter
    model: nn.Module  # the run's initial model
    seed: int
    rounds: int
    ranks: Sequence[int]  # R_i by client
    lora_alpha: float
    base_bits: int
    sparse_share: float
    parts: BlockParts | None = None


Stages = Sequence[Sequence[Layout]]


@dataclass(frozen=True)
class MethodSpec:
    """One method's entry.

    `build` makes the method.  `stages` takes a model without weights and a `ClientSetup`.  For each
    stage of a run it returns the clients' layouts, one for each place of the block.  Plans use the
    last stage; peak memory uses the worst stage.  `options` names the run options, or whole
    sections, that this method uses and some other methods do not.
    """

    name: str
    build: Callable[[Ingredients], Method]
    stages: Callable[[nn.Module, ClientSetup], Stages]
    options: tuple[str, ...] = ()
    trains_blocks: bool = False  # a client trains as many layers as it can afford, among stand-ins
    ranks_by_client: bool = False  # each client's adapters have their own rank
    rate_factor: float = 1.0  # its learning rate by default, as a multiple of that of whole layers
    gets_all_adapters: bool = False  # clients get all adapters, or the weights if these are less
    new_basis: bool = False  # a client's adapters mean something else in every round
    clients: str = "every client holds the whole model, whatever its capacity"


def register(spec: MethodSpec) -> None:
    """Add a method to the table.  Raises ConfigError if its name is taken."""
    if spec.name in _METHODS:
        raise ConfigError(f"there is a method {spec.name!r} already; give yours another name")
    _METHODS[spec.name] = spec


def spec_of(name: str) -> MethodSpec:
    """Return a method's entry.  Raises ConfigError for a name that is not in the table."""
    if name in _METHODS:
        return _METHODS[name]
    known = methods()
    if name not in known:
        raise ConfigError(f"no method {name!r}{nearest(name, known)}")
    return known[name]


def methods() -> dict[str, MethodSpec]:
    """Return all entries by name, with the methods that installed packages add.

    Raises ConfigError for an entry point that cannot be loaded or is no `MethodSpec` of its name.
    """
    for entry in installed():
        if entry.name in _METHODS:
            continue
        try:
            spec = entry.load()
        except Exception as error:
            raise ConfigError(
                f"the method {entry.name!r} ({entry.value}) cannot be loaded: {error}"
            ) from error
        if not isinstance(spec, MethodSpec) or spec.name != entry.name:
            raise ConfigError(f"{entry.value} is no MethodSpec with the name {entry.name!r}")
        register(spec)
    return dict(_METHODS)


@cache
def installed() -> tuple[EntryPoint, ...]:
    """Return the entry points of installed packages.  To look through all packages takes long."""
    return tuple(entry_points(group=GROUP))


def users_of(option: str) -> tuple[str, ...]:
    """Return the names of the methods that use a run option."""
    section = option.partition(".")[0]
    return tuple(n for n, spec in methods().items() if {option, section} & set(spec.options))


def _leff(given: Ingredients) -> Method:
    parts = given.parts
    assert parts is not None
    return Leff(
        replace(given.writer, shell_bits=parts.embedding_bits),
        BlockSampler(parts.rule, parts.proxy, len(blocks(given.model))),
        parts.assignment,
        Bank(parts.distillation),
        parts.merge,
        parts.proxy,
        parts.sizes,
    )


def _slora(given: Ingredients) -> Method:
    if given.rounds < 2:
        raise ConfigError("slora has two stages, so training.rounds must be at least 2, got 1")
    sparse_rounds = min(share_of(given.rounds, given.sparse_share), given.rounds - 1)
    base = WholeModel(given.writer)
    rank, alpha = given.ranks[0], given.lora_alpha
    return SLora(base, given.model, rank, alpha, sparse_rounds, given.seed)


def _by_rank(kind: type[FLora] | type[FlexLora], bits: int, given: Ingredients) -> Method:
    base = WholeModel(given.writer, bits)
    return kind(base, given.model, given.ranks, given.lora_alpha, given.seed)


def _fedlora(given: Ingredients) -> Method:
    base = WholeModel(given.writer, given.base_bits)
    return FedLora(base, given.model, given.ranks[0], given.lora_alpha, given.seed)


def _blocks(model: nn.Module, setup: ClientSetup) -> Stages:
    return [block_layouts(setup, len(blocks(model)))]


def _biases(model: nn.Module, setup: ClientSetup) -> Stages:
    return [[_whole(model, _shapes(model, bitfit_names(model)))]]


def _all_layers(model: nn.Module, setup: ClientSetup) -> Stages:
    total = len(blocks(model))
    return [[block_layout(EXACT, range(total), total)]]


def _adapters(model: nn.Module, setup: ClientSetup) -> Stages:
    return [[_whole(model, _adapter_shapes(model, setup.rank), setup.base_bits)]]


def _adapters_beside_fp32(model: nn.Module, setup: ClientSetup) -> Stages:
    return _adapters(model, replace(setup, base_bits=32))


def _sparse_then_adapters(model: nn.Module, setup: ClientSetup) -> Stages:
    single = sparse.sparse_shapes(lora.target_shapes(model), setup.rank)
    first = _whole(model, {**single, **_shapes(model)})
    return [[first], *_adapters_beside_fp32(model, setup)]


def _whole(model: nn.Module, tuned: Shapes, bits: int = 32) -> Layout:
    return whole_layout(len(blocks(model)), tuned, bits)


def _adapter_shapes(model: nn.Module, rank: int) -> Shapes:
    """Return the shapes of adapters on every target, and of the classifier, which trains whole."""
    targets = lora.target_shapes(model)
    lora.check_rank(targets, rank, "rank")
    return {**lora.adapter_shapes(targets, rank), **_shapes(model)}


def _shapes(model: nn.Module, names: Iterable[str] | None = None) -> Shapes:
    return shapes_of(own_parameters(model, names))


_METHODS = {
    spec.name: spec
    for spec in (
        MethodSpec("leff", _leff, _blocks, options=BLOCK_OPTIONS, trains_blocks=True),
        MethodSpec(
            "fedavg",
            lambda given: FedAvg(given.writer),
            _all_layers,
            clients="every client trains all layers, whatever its capacity",
        ),
        MethodSpec(
            "fedbitfit",
            lambda given: FedBitFit(WholeModel(given.writer), given.model),
            _biases,
            rate_factor=LITTLE,
        ),
        MethodSpec(
            "fedlora",
            _fedlora,
            _adapters,
            options=(*ADAPTERS, "method.base_bits"),
            rate_factor=LITTLE,
        ),
        MethodSpec(
            "slora",
            _slora,
            _sparse_then_adapters,
            options=(*ADAPTERS, "method.sparse_share"),
            rate_factor=LITTLE,
        ),
        MethodSpec(
            "flora",
            lambda given: _by_rank(FLora, 32, given),
            _adapters_beside_fp32,
            options=(*ADAPTERS, "clients.ranks"),
            rate_factor=LITTLE,
            ranks_by_client=True,
            gets_all_adapters=True,
            new_basis=True,
        ),
        MethodSpec(
            "flexlora",
            lambda given: _by_rank(FlexLora, given.base_bits, given),
            _adapters,
            options=(*ADAPTERS, "method.base_bits", "clients.ranks"),
            rate_factor=LITTLE,
            ranks_by_client=True,
            new_basis=True,
        ),
    )
}
