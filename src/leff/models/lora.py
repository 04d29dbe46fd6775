"""Low-rank adapters: their names and shapes, their products, and the layers that run them.

    tensors = fresh(adapter_shapes({"h.0.attn.c_attn": (288, 96)}, rank=8), seed=0)
    add_products(model, products(tensors), scale=2.0)           # W += 2 · B · A

A module's adapter is ``MODULE.lora_A`` (R, in) and ``MODULE.lora_B`` (out, R), in fp32 (Hu et al.
2022).  Clients train adapters in peft's layers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.errors import ConfigError
from leff.models import linear_shape, lora_modules
from leff.models.hardware import wide
from leff.models.quantised import QuantisedLinear
from leff.seeds import derive_seed

linalg: Any = torch.linalg  # torch gives its functions no types
A, B = "lora_A", "lora_B"
Product = tuple[torch.Tensor, torch.Tensor]  # (B, A), of a module


def target_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (outputs, inputs) of every module that gets an adapter (PAPER, Table 5).

    ConfigError if there is none.
    """
    shapes = {name: linear_shape(model.get_submodule(name)) for name in lora_modules(model)}
    if not shapes:
        raise ConfigError(
            f"{type(model).__name__} has no linear module that could get adapters; use leff"
        )
    return {name: shape for name, shape in shapes.items() if shape is not None}


def check_rank(shapes: Mapping[str, tuple[int, int]], rank: int, option: str) -> None:
    """Raise ConfigError, naming the option, for a rank above the least width of a module."""
    most = min(min(shape) for shape in shapes.values())
    if not 1 <= rank <= most:
        raise ConfigError(
            f"{option} must be 1 to {most}, the least width of a module that gets adapters, got "
            f"{rank}"
        )


def adapter_shapes(targets: Mapping[str, tuple[int, int]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all adapters of one rank, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module, (outputs, inputs) in targets.items():
        shapes |= {f"{module}.{A}": (rank, inputs), f"{module}.{B}": (outputs, rank)}
    return shapes


def fresh(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Return the initial adapters: A uniform in ±1/√in, as in peft, and anything else zero.

    A module's draw depends only on `seed` and its name.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        tensors[name] = torch.zeros(shape)
        if name.endswith(f".{A}"):
            generator = torch.Generator().manual_seed(derive_seed(seed, name))
            bound = 1 / math.sqrt(shape[1])
            tensors[name].uniform_(-bound, bound, generator=generator)
    return tensors


def products(tensors: Mapping[str, torch.Tensor]) -> dict[str, Product]:
    """Return each module's B and A, from the tensors that are adapters."""
    modules = [name.removesuffix(f".{A}") for name in tensors if name.endswith(f".{A}")]
    return {module: (tensors[f"{module}.{B}"], tensors[f"{module}.{A}"]) for module in modules}


def is_adapter(name: str) -> bool:
    """Return whether a tensor of this name is an adapter's."""
    return name.endswith((f".{A}", f".{B}"))


def named(found: Mapping[str, Product]) -> dict[str, torch.Tensor]:
    """Return the tensors of `products` by name."""
    tensors: dict[str, torch.Tensor] = {}
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
    """Replace scale · B · A of `old` in the modules' weights by that of `new`, in place.

    `old` may be empty.  A weight keeps its bits if its two products are equal.
    """
    for module, product in new.items():
        weight = linear_weight(model, module)
        added = multiplied(product, weight)
        weight += scale * (added - multiplied(old[module], weight) if old else added)


def multiplied(product: Product, like: torch.Tensor) -> torch.Tensor:
    """Return B · A with the device and precision of `like`."""
    return product[0].to(like) @ product[1].to(like)


def linear_weight(model: nn.Module, module: str) -> torch.Tensor:
    """Return a linear module's weight as a writable view (out, in)."""
    linear: Any = model.get_submodule(module)
    return linear.weight.data.t() if isinstance(linear, Conv1D) else linear.weight.data


def stacked(parts: Sequence[tuple[float, Mapping[str, Product]]]) -> dict[str, Product]:
    """Return the factors whose product is Σ_i w_i · B_i · A_i; their rank is the sum of the ranks.

    Only each B_i is scaled.  Scaling A_i too would square the weights w_i (FLoRA, Wang et al.
    2024).
    """
    modules = parts[0][1]
    return {
        module: (
            torch.cat([weight * factors[module][0] for weight, factors in parts], dim=1),
            torch.cat([factors[module][1] for _, factors in parts], dim=0),
        )
        for module in modules
    }


def svd(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, S and Vᵀ of a matrix, as thin as can be, the largest values first."""
    return linalg.svd(matrix, full_matrices=False)


def factored(product: Product) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U (out, K), S (K,), Vᵀ (K, in) of B · A in float64, the largest values first.

    K is the least of out, in and the adapters' rank.  Two thin QR decompositions come first, so
    the full product is never formed.  The first k values and vectors are the best approximation of
    rank k (Eckart and Young).
    """
    b, a = product
    qb, rb = linalg.qr(wide(b))
    qa, ra = linalg.qr(wide(a.t()))
    u, s, vt = svd(rb @ ra.t())
    return qb @ u, s, vt @ qa.t()


def install(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], scale: float
) -> dict[str, nn.Parameter]:
    """Put peft's LoRA layers with these adapters into the model; return their parameters by name.

    Names are ``MODULE.lora_A`` and ``MODULE.lora_B``.  Modules may be quantised.  All adapters
    have the same rank.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    modules = products(tensors)
    rank = next(iter(modules.values()))[1].shape[0]
    for name in modules:
        _describe(model.get_submodule(name))
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]  # peft divides it by the rank
        target_modules=list(modules),
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in modules),
        init_lora_weights=False,
    )
    config._register_custom_module({QuantisedLinear: Linear})  # pyright: ignore[reportPrivateUsage]  # peft's documented way
    with torch.device("meta"):  # the tensors are put in below
        inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    parameters: dict[str, nn.Parameter] = {}
    for name, tensor in tensors.items():
        module, _, side = name.rpartition(".")
        linear: Any = model.get_submodule(f"{module}.{side}.default")
        linear.weight = parameters[name] = nn.Parameter(tensor.clone())
    return parameters


def _describe(linear: nn.Module) -> None:
    """Give a quantised module the attributes in which peft looks for its sizes and its device."""
    if isinstance(linear, QuantisedLinear):
        untyped: Any = linear  # the type checker takes a module's attributes for tensors
        untyped.infeatures, untyped.outfeatures = linear.in_features, linear.out_features
        untyped.qweight = linear.codes  # a module without a bias has no parameter with a device
