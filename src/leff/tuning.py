"""What trains in a whole model that is otherwise frozen: parameters, adapters, sparse updates.

    trained = tune(model, job.tuned, fetch)       # on the client: what the optimizer gets

FedBitFit, FedLoRA, SLoRA, FLoRA and FlexLoRA are made of it; see `types.Tuned`.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from leff import lora, sparse
from leff.families import trainable_names
from leff.types import Job, Part, Tuned

Fetch = Callable[[Part], Mapping[str, torch.Tensor]]  # what it returns is never changed


def tune(model: nn.Module, tuned: Tuned, fetch: Fetch) -> dict[str, nn.Parameter]:
    """Freeze the model but for what `tuned` says, and return that by name, with its values."""
    model.requires_grad_(False)
    _merge(model, tuned, fetch)
    device = next(model.parameters()).device
    tensors = {name: tensor.to(device) for name, tensor in values(tuned, fetch).items()}
    adapters = {n: t for n, t in tensors.items() if lora.is_adapter(n)}
    updates = {n: t for n, t in tensors.items() if n.endswith(f".{sparse.SPARSE}")}
    own = {n: t for n, t in tensors.items() if n not in adapters and n not in updates}
    found: dict[str, nn.Parameter] = {}
    for name, tensor in own.items():
        found[name] = model.get_parameter(name)
        found[name].data = tensor.clone()
    found |= sparse.install(model, updates, tuned.seed)
    found |= lora.install(model, adapters, tuned.scale) if adapters else {}
    for parameter in found.values():
        parameter.requires_grad_(True)  # peft has frozen all but its own
    return found


def _merge(model: nn.Module, tuned: Tuned, fetch: Fetch) -> None:
    """Add the products of earlier rounds to the weights, copied first: others may hold them."""
    for index, part in enumerate(tuned.merged):
        found = lora.products(fetch(part))
        for module in found if index == 0 else ():
            weight = model.get_submodule(module).get_parameter("weight")
            weight.data = weight.data.clone()
        lora.add_products(model, found)


def values(tuned: Tuned, fetch: Fetch) -> dict[str, torch.Tensor]:
    """Return the values that everything starts from, in the order of their names.

    Safetensors reads in any order, and sums over all that trains depend on it in the last bits.
    """
    sent = {} if tuned.part is None else fetch(tuned.part)
    drawn = {name: shape for name, shape in tuned.shapes.items() if name not in sent}
    found = {**sent, **lora.fresh(drawn, tuned.seed)}
    return {name: found[name] for name in sorted(found)}


def expected_shapes(model: nn.Module, job: Job) -> dict[str, tuple[int, ...]]:
    """Return name and shape of everything that a client trains: what its update must hold."""
    if job.tuned is not None:
        return dict(job.tuned.shapes)
    parameters = dict(model.named_parameters())
    return {name: tuple(parameters[name].shape) for name in trainable_names(model, job.block)}
