"""Sparse updates: a few weights of every linear module train, at random positions.

    places = positions("h.0.attn.c_attn", (288, 96), count=3072, seed=0)

This is stage one of SLoRA (Babakniya et al. 2023).  The mask does not depend on data, is drawn
once and is the same for all clients.  So server and clients draw it from a seed, and only values
travel.  ``MODULE.sparse`` (n,) is added to the weight (out, in), read row by row.
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from leff.models import linear_shape
from leff.models.lora import linear_weight
from leff.seeds import derive_seed

SPARSE = "sparse"


def sparse_shapes(targets: Mapping[str, tuple[int, int]], rank: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of every module's values: as many as its adapters of this rank have.

    A module gets no more values than it has weights.  Both stages of SLoRA thus cost a client the
    same.  The paper gives no density.
    """
    return {
        f"{module}.{SPARSE}": (min(rank * (outputs + inputs), outputs * inputs),)
        for module, (outputs, inputs) in targets.items()
    }


def positions(module: str, shape: tuple[int, int], count: int, seed: int) -> torch.Tensor:
    """Return `count` different positions (n,) in a weight (out, in), ascending, int32."""
    generator = torch.Generator().manual_seed(derive_seed(seed, module, SPARSE))
    places = torch.randperm(shape[0] * shape[1], generator=generator)[:count]
    return places.sort().values.to(torch.int32)


@torch.no_grad()
def add_sparse(model: nn.Module, values: Mapping[str, torch.Tensor], seed: int) -> None:
    """Add the values to the modules' weights, in place."""
    for module, own in modules_of(values).items():
        weight = linear_weight(model, module)
        places = positions(module, (weight.shape[0], weight.shape[1]), len(own), seed)
        rows, columns = places // weight.shape[1], places % weight.shape[1]
        weight[rows, columns] += own.to(weight)


def dense(model: nn.Module, module: str, values: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a module's values as the update of its weight, (out, in)."""
    outputs, inputs = linear_weight(model, module).shape
    update = torch.zeros(outputs * inputs)
    update[positions(module, (outputs, inputs), len(values), seed)] = values
    return update.view(outputs, inputs)


def is_sparse(name: str) -> bool:
    """Return whether a tensor of this name is a sparse update."""
    return name.endswith(f".{SPARSE}")


def modules_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return each module's values, from the tensors that are sparse updates."""
    suffix = f".{SPARSE}"
    return {n.removesuffix(suffix): t for n, t in tensors.items() if n.endswith(suffix)}


def install(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], seed: int
) -> dict[str, nn.Parameter]:
    """Add trainable values to the modules' weights; return their parameters by name."""
    parameters: dict[str, nn.Parameter] = {}
    for module, values in modules_of(tensors).items():
        linear = model.get_submodule(module)
        shape = linear_shape(linear)
        assert shape is not None
        places = positions(module, shape, len(values), seed)
        added = _Added(places, values, transposed=isinstance(linear, Conv1D))
        parametrize.register_parametrization(linear, "weight", added)
        parameters[f"{module}.{SPARSE}"] = added.values
    return parameters


class _Added(nn.Module):
    """weight -> weight with values (n,) added at places (n,) of its (out, in) form."""

    def __init__(self, places: torch.Tensor, values: torch.Tensor, transposed: bool) -> None:
        super().__init__()
        self.places: torch.Tensor
        self.register_buffer("places", places.to(values.device), persistent=False)
        self.values = nn.Parameter(values.clone())
        self._transposed = transposed

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        rows = weight.t() if self._transposed else weight
        sums = rows.reshape(-1).index_add(0, self.places, self.values).view_as(rows)
        return sums.t() if self._transposed else sums
