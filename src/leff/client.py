"""What a client does: report, train, evaluate.  Pure, and the same under every engine.

    update = train(job, store.get, examples, device)

A client sees its own examples, the job, and the parts that the job names.  It builds a real
Hugging Face model, of fewer layers with LEFF, trains what the job says (PAPER Sec. 3.4 and Table
5), and sends back those tensors alone.
"""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from leff.context.quantise import install
from leff.data.encode import Example, by_length, collate
from leff.families import blocks, build_model, config_from_json, family_of, trainable_names
from leff.local_steps import local_steps, trained_layers
from leff.losses import label_count, mean_loss
from leff.seeds import forked
from leff.tuning import Fetch, tune
from leff.types import Capacity, Job, Update, pack


def report(
    client: int,
    layers: int,
    examples: Sequence[Example],
    memory_bytes: int | None = None,
    step_flops: int | None = None,
) -> Capacity:
    """Return the client's capacity: what it can fine-tune, and its data's size."""
    return Capacity(client, layers, len(examples), memory_bytes, step_flops)


def train(job: Job, fetch: Fetch, examples: Sequence[Example], device: torch.device) -> Update:
    """Do a job on a client's own examples and return what it trained.

    The result depends on the job, its parts and the examples alone (dropout and the order of the
    examples draw from `job.seed`).  A loss or a weight that is not finite, or a client without
    examples, is a failure that the update reports; nothing is raised for it.
    """
    started = time.perf_counter()
    model, trained = prepared(job, fetch, device)
    with forked(job.seed):
        done = local_steps(model, list(trained.values()), job, examples, device)
    model.zero_grad(set_to_none=True)  # what is sent is packed where gradients were
    tensors = {name: parameter.detach().cpu() for name, parameter in trained.items()}
    failure = done.failure
    if failure is None and not all(torch.isfinite(t).all() for t in tensors.values()):
        failure = "a trained weight is not finite"
    payload = b"" if failure else pack(tensors)
    return Update(
        round=job.round,
        client=job.client,
        layers=job.block,
        examples=len(examples),
        payload=payload,
        losses=None if failure else _ends(done.losses),
        steps=len(done.losses),
        train_seconds=time.perf_counter() - started,
        upload_bytes=len(payload),
        layer_scores=() if failure else done.layer_scores,
        state_bytes=done.state_bytes,
        failure=failure,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int, pad_id: int
) -> float:
    """Return the model's mean loss over the examples, weighted by labels (nats).

    Raises ValueError if there are no examples, or none has a label.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    order = by_length(examples)
    for start in range(0, len(order), batch_size):
        batch = collate([examples[row] for row in order[start : start + batch_size]], pad_id)
        weight = label_count(batch["labels"])
        if weight:
            loss = mean_loss(model, {name: value.to(device) for name, value in batch.items()})
            total, count = total + float(loss) * weight, count + weight
    model.train(was_training)
    if not count:
        raise ValueError("there is nothing to evaluate on")
    return total / count


def client_model(job: Job, fetch: Fetch, device: torch.device) -> nn.Module:
    """Return the model that a job describes, in train mode, nothing at higher precision than sent.

    Layer j of its list holds the j-th layer of the job's segments.
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

    def install_quantised(model: nn.Module) -> None:
        for layer, tensors in quantised.items():
            left = install(blocks(model)[layer], tensors, device)
            state.update({f"{path}.{layer}.{name}": tensor for name, tensor in left.items()})

    return build_model(config, job.kind, sources, state, prepare=install_quantised).to(device)


def prepared(
    job: Job, fetch: Fetch, device: torch.device
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Return the job's model, and of its parameters those that train, by the full model's names."""
    model = client_model(job, fetch, device)
    return model, _unfreeze(model, job) if job.tuned is None else tune(model, job.tuned, fetch)


def _unfreeze(model: nn.Module, job: Job) -> dict[str, nn.Parameter]:
    """Let block and tail train, nothing else; return them under the full model's names."""
    model.requires_grad_(False)
    path = family_of(model).blocks
    layers = trained_layers(job)
    renamed = {  # prefix in the client's model -> in the full one
        f"{path}.{layer}.": f"{path}.{source}."
        for layer, source in zip(layers, job.block, strict=True)
    }
    parameters = dict(model.named_parameters())
    trained = {}
    for name in trainable_names(model, layers):
        parameter = parameters[name].requires_grad_(True)
        parameter.data = parameter.data.clone()  # whoever fetched it may hold it still
        prefix = next((p for p in renamed if name.startswith(p)), "")
        trained[renamed.get(prefix, "") + name.removeprefix(prefix)] = parameter
    return trained


def _ends(losses: Sequence[float]) -> tuple[float, float] | None:
    """Return the means of the first and of the last quarter, if there is anything."""
    quarter = max(1, len(losses) // 4)
    return (_mean(losses[:quarter]), _mean(losses[-quarter:])) if losses else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
