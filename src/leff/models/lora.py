"""Low-rank adapters: their names and shapes, their products, and the layers that run them.

    tensors = fresh(adapter_shapes({"h.0.attn.c_attn": (288, 96)}, rank=8), seed=0)
    add_products(model, products(tensors), scale=2.0)           # W += 2 · B · A

A module's adapter is ``MODULE.lora_A`` (R, in) and ``MODULE.lora_B`` (out, R), fp32 (Hu et al.
2022).  The layers that clients train them in are peft's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.errors import ConfigError
from leff.models import linear_shape, lora_modules
from leff.models.quantised import QuantisedLinear
from leff.seeds import derive_seed

A, B = "lora_A", "lora_B"
Product = tuple[torch.Tensor, torch.Tensor]  # (B, A), of a module


def target_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (outputs, inputs) of every module that gets an adapter (PAPER, Table 5).

    ConfigError if there is none.
    """
    modules = dict(model.named_modules())
    found = {name: linear_shape(modules[name]) for name in lora_modules(model)}
    if not found:
        raise ConfigError(
            f"{type(model).__name__} has no linear module that could get adapters; use leff"
        )
    return {name: shape for name, shape in found.items() if shape is not None}


def check_rank(shapes: Mapping[str, tuple[int, int]], rank: int, option: str) -> None:
    """Raise ConfigError, naming the option, for a rank that some module has no room for."""
    most = min(min(shape) for shape in shapes.values())
    if not 1 <= rank <= most:
        raise ConfigError(
            f"{option} must be 1 to {most}, the least width of a module that gets adapters, got "
            f"{rank}"
        )


def adapter_shapes(targets: Mapping[str, tuple[int, int]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all adapters of one rank, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for module, (outputs, inputs) in targets.items():
        found |= {f"{module}.{A}": (rank, inputs), f"{module}.{B}": (outputs, rank)}
    return found


def fresh(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return what adapters start from: A uniform in ±1/√in, as in peft, anything else zero.

    A module's draw depends on `seed` and its name alone.
    """
    found = {}
    for name, shape in shapes.items():
        found[name] = torch.zeros(shape)
        if name.endswith(f".{A}"):
            generator = torch.Generator().manual_seed(derive_seed(seed, name))
            bound = 1 / math.sqrt(shape[1])
            found[name].uniform_(-bound, bound, generator=generator)
    return found


def products(tensors: Mapping[str, torch.Tensor]) -> dict[str, Product]:
    """Return B and A by module, of the tensors that are adapters."""
    modules = [name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")]
    return {module: (tensors[f"{module}.{B}"], tensors[f"{module}.{A}"]) for module in modules}


def is_adapter(name: str) -> bool:
    """Return whether a tensor of this name is an adapter's."""
    return name.endswith((f".{A}", f".{B}"))


def named(found: Mapping[str, Product]) -> dict[str, torch.Tensor]:
    """Return the tensors of `products` by name."""
    tensors = {}
    for module, (b, a) in found.items():
        tensors |= {f"{module}.{A}": a, f"{module}.{B}": b}
    return tensors


@torch.no_grad()
def add_products(model: nn.Module, found: Mapping[str, Product], scale: float = 1.0) -> None:
    """Add scale · B · A to the modules' weights, in place."""
    for module, product in found.items():
        weight = linear_weight(model, module)
        weight += scale * multiplied(product, weight)


@torch.no_grad()
def replace_products(
    model: nn.Module, old: Mapping[str, Product], new: Mapping[str, Product], scale: float = 1.0
) -> None:
    """Have scale · B · A of `new` in the modules' weights in place of that of `old`.

    `old` may be empty.  Where both are equal the weights keep their bits.
    """
    for module, product in new.items():
        weight = linear_weight(model, module)
        added = multiplied(product, weight)
        weight += scale * (added - multiplied(old[module], weight) if old else added)


def multiplied(product: Product, like: torch.Tensor) -> torch.Tensor:
    """Return B · A with the device and precision of `like`."""
    return product[0].to(like) @ product[1].to(like)


def linear_weight(model: nn.Module, module: str) -> torch.Tensor:
    """Return a linear module's weight as (out, in), a view that may be written to."""
    linear: Any = model.get_submodule(module)
    return linear.weight.data.t() if isinstance(linear, Conv1D) else linear.weight.data


def stacked(parts: Sequence[tuple[float, Mapping[str, Product]]]) -> dict[str, Product]:
    """Return the factors whose product is Σ_i w_i · B_i · A_i, ranks added up.

    Every B_i is scaled, no A_i: scaling both would square the weights (FLoRA, Wang et al. 2024).
    """
    modules = parts[0][1]
    return {
        module: (
            torch.cat([weight * found[module][0] for weight, found in parts], dim=1),
            torch.cat([found[module][1] for _, found in parts], dim=0),
        )
        for module in modules
    }


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, S and Vᵀ of a matrix, as thin as can be, the largest values first."""
    factors: tuple[torch.Tensor, ...] = torch.linalg.svd(matrix, full_matrices=False)  # pyright: ignore[reportUnknownMemberType]
    return factors[0], factors[1], factors[2]


def factored(product: Product) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U (out, K), S (K,), Vᵀ (K, in) of B · A, float64, the largest values first.

    K is the adapters' rank, out or in, whichever is least.  By way of two thin QR decompositions,
    so the full product is never formed.  Its first k values and vectors are the best
    approximation of rank k (Eckart and Young).
    """
    (qb, rb), (qa, ra) = (torch.linalg.qr(f.double()) for f in (product[0], product[1].t()))
    u, s, vt = svd(rb @ ra.t())
    return qb @ u, s, vt @ qa.t()


def install(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], scale: float
) -> dict[str, nn.Parameter]:
    """Put peft's LoRA layers with these adapters into the model; return their parameters by name.

    A tensor's name is as above.  Modules may be quantised.  All adapters have one rank.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    found = products(tensors)
    rank = next(iter(found.values()))[1].shape[0]
    for name in found:
        _describe(model.get_submodule(name))
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]  # peft divides, whole or not
        target_modules=list(found),
        fan_in_fan_out=_any_conv1d(model, found),
        init_lora_weights=False,
    )
    config._register_custom_module({QuantisedLinear: Linear})
    with torch.device("meta"):  # what trains is put in below
        inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    parameters = {}
    for name, tensor in tensors.items():
        module, _, side = name.rpartition(".")
        linear: Any = model.get_submodule(f"{module}.{side}.default")
        linear.weight = nn.Parameter(tensor.clone())
        parameters[name] = linear.weight
    return parameters


def _describe(linear: nn.Module) -> None:
    """Give a quantised module the attributes by which peft knows sizes and device of others."""
    if isinstance(linear, QuantisedLinear):
        known: Any = linear  # to the type checker a module's attributes are tensors and modules
        known.infeatures, known.outfeatures = linear.in_features, linear.out_features
        known.qweight = linear.codes  # without a bias there is no parameter to ask


def _any_conv1d(model: nn.Module, modules: Iterable[str]) -> bool:
    return any(isinstance(model.get_submodule(module), Conv1D) for module in modules)
