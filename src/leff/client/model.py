"""Builds a client's model from a job and its parts, and selects the parameters that train.

    model, trained = prepared(job, store.get, device)      # the optimizer gets `trained`

LEFF's clients train a block of layers and the tail (PAPER Sec. 3.4, Table 5).  The clients of
FedBitFit, FedLoRA, SLoRA, FLoRA and FlexLoRA hold the whole model, frozen, and train the tensors
of the job's `Tuned`: parameters, adapters or sparse updates.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn

from leff.models import (
    blocks,
    build_model,
    config_from_json,
    family_of,
    layer_prefix,
    lora,
    sparse,
    trainable_names,
)
from leff.models.activations import fuse
from leff.models.quantised import install
from leff.models.scratch import Scratch
from leff.wire.messages import Job, MeasureJob, Part, Tuned

Fetch = Callable[[Part], Mapping[str, torch.Tensor]]  # callers never change the tensors


def prepared(
    job: Job, fetch: Fetch, device: torch.device
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Return the job's model, and its trained parameters by the full model's names."""
    model = client_model(job, fetch, device)
    return model, unfreeze(model, job) if job.tuned is None else tune(model, job.tuned, fetch)


def client_model(job: Job | MeasureJob, fetch: Fetch, device: torch.device) -> nn.Module:
    """Return the model that a job describes, in train mode.  Tensors keep the precision sent.

    Layer j of the model is the j-th layer of the job's segments.
    """
    config = config_from_json(job.config)
    path = family_of(config).blocks
    state = {**fetch(job.shell), **fetch(job.tail)}
    quantised: dict[int, Mapping[str, torch.Tensor]] = {}
    sources: list[int] = []
    for segment in job.segments:
        for source, part in zip(segment.sources, segment.parts, strict=True):
            layer = len(sources)
            if segment.bits < 32:
                quantised[layer] = fetch(part)
            else:
                state |= {f"{path}.{layer}.{name}": t for name, t in fetch(part).items()}
            sources.append(source)

    scratch = Scratch()

    def install_quantised(model: nn.Module) -> None:
        for layer, tensors in quantised.items():
            left = install(blocks(model)[layer], tensors, device, scratch)
            state.update({f"{path}.{layer}.{name}": tensor for name, tensor in left.items()})

    model = build_model(config, job.kind, sources, state, prepare=install_quantised).to(device)
    fuse(model)
    return model


def trained_layers(job: Job) -> dict[int, int]:
    """Return the layers that train: place in the client's model -> number in the full model."""
    layers = ((source, segment.trains) for segment in job.segments for source in segment.sources)
    return {place: source for place, (source, trains) in enumerate(layers) if trains}


def trainable_parameters(
    model: nn.Module, layers: Mapping[int, int], tail: bool = True
) -> dict[str, nn.Parameter]:
    """Return the parameters of these layers and of the tail, by the full model's names.

    `layers` maps a layer's place in `model` to its number in the full model.
    """
    renamed = {layer_prefix(model, p): layer_prefix(model, s) for p, s in layers.items()}
    parameters = dict(model.named_parameters())
    trained: dict[str, nn.Parameter] = {}
    for name in trainable_names(model, layers):
        prefix = next((p for p in renamed if name.startswith(p)), "")
        if prefix or tail:
            trained[renamed.get(prefix, "") + name.removeprefix(prefix)] = parameters[name]
    return trained


def unfreeze(model: nn.Module, job: Job) -> dict[str, nn.Parameter]:
    """Let only the block and the tail train; return them by the full model's names.

    The other layers have no dropout: it regularises what trains, and around that it is noise.
    Without it, attention keeps no maps for the backward pass.
    """
    model.requires_grad_(False)
    trains = trained_layers(job)
    for place, layer in enumerate(blocks(model)):
        layer.train(place in trains)
    trained = trainable_parameters(model, trains)
    for parameter in trained.values():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.clone()  # others may hold the fetched tensor
    return trained


def tune(model: nn.Module, tuned: Tuned, fetch: Fetch) -> dict[str, nn.Parameter]:
    """Let only the tensors of `tuned` train, at their first values; return them by name."""
    model.requires_grad_(False)
    _merge(model, tuned, fetch)
    device = next(model.parameters()).device
    tensors = {name: tensor.to(device) for name, tensor in tuned_values(tuned, fetch).items()}
    adapters = {n: t for n, t in tensors.items() if lora.is_adapter(n)}
    updates = {n: t for n, t in tensors.items() if sparse.is_sparse(n)}
    own = {n: t for n, t in tensors.items() if n not in adapters and n not in updates}
    trained: dict[str, nn.Parameter] = {}
    for name, tensor in own.items():
        trained[name] = model.get_parameter(name)
        trained[name].data = tensor.clone()
    trained |= sparse.install(model, updates, tuned.seed)
    trained |= lora.install(model, adapters, tuned.scale) if adapters else {}
    for parameter in trained.values():
        parameter.requires_grad_(True)  # peft has frozen all parameters except its adapters
    return trained


def _merge(model: nn.Module, tuned: Tuned, fetch: Fetch) -> None:
    """Put in the weights that were sent, and add the products that were sent, in their order.

    Products are added to copies of weights, since others may hold the originals.
    """
    copied: set[str] = set()
    for part in tuned.merged:
        tensors = fetch(part)
        products = lora.products(tensors)
        for name in tensors:
            if not lora.is_adapter(name):
                weight = model.get_parameter(name)
                weight.data = tensors[name].to(weight)
        for module in products.keys() - copied:
            weight = model.get_submodule(module).get_parameter("weight")
            weight.data = weight.data.clone()
            copied.add(module)
        lora.add_products(model, products)


def tuned_values(tuned: Tuned, fetch: Fetch) -> dict[str, torch.Tensor]:
    """Return the first values of all tuned tensors, in the order of their names.

    Safetensors reads in any order, and the order changes the last bits of sums over all tensors.
    """
    sent: Mapping[str, torch.Tensor] = {} if tuned.part is None else fetch(tuned.part)
    drawn = {name: shape for name, shape in tuned.shapes.items() if name not in sent}
    values = {**sent, **lora.fresh(drawn, tuned.seed)}
    return {name: values[name] for name in sorted(values)}
