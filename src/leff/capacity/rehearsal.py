"""A client's training step without numbers: what it holds at most, from a configuration alone.

    rehearse(config, "generation", layout, ClientSetup()).peak

The client builds its model and trains as it will (`prepared`, `local_steps`), on tensors that have
shapes only (`ledger`).  So the figure follows the code, and holds for architectures that nobody
here has met.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import PretrainedConfig

from leff.capacity.ledger import Ledger
from leff.client.model import prepared
from leff.client.steps import local_steps
from leff.methods.jobs import JobWriter, layout_job
from leff.methods.setup import ClientSetup, Layout
from leff.models import empty_model
from leff.models.kinds import LANGUAGE_KINDS
from leff.tasks.encode import Example
from leff.wire.messages import LocalTraining, Part, Step

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rehearsal:
    """Bytes of a training step after the first, all counted on the tensors of the real code."""

    weights: int  # and buffers
    gradients: int
    optimizer: int
    activations: int  # what a forward pass keeps for the backward pass
    peak: int  # the largest sum at any moment; not all of the above are there at once


def rehearse(config: PretrainedConfig, kind: str, layout: Layout, setup: ClientSetup) -> Rehearsal:
    """Return what a step holds in a client's model of this layout.

    Of `setup` the step counts, and the length and the labelled share of texts.  From the second
    part of a batch on all parts hold the same, so two are rehearsed.
    """
    step = setup.step
    if step.accumulation > 2:
        size = 2 * (step.batch_size // step.accumulation)
        step = replace(step, batch_size=size, accumulation=2)
    with Ledger() as ledger:
        model, store = without_values(ledger, config, kind), ShapeStore(ledger)
        writer = JobWriter(store, kind, pad_id=0, shell_bits=layout.shell_bits)
        job = layout_job(writer, model, layout, training_of(step))
        before = ledger.held  # the full model, which stays until the end
        built, trained = prepared(job, store.get, CPU)
        weights = ledger.held - before
        ledger.peak = ledger.held
        marks: list[int] = []

        def mark(*_: Any) -> None:
            marks.append(ledger.peak - before)
            ledger.peak = ledger.held

        hook = register_optimizer_step_pre_hook(mark)
        try:
            examples = examples_of(replace(setup, step=step), kind)
            done = local_steps(built, list(trained.values()), job, examples, CPU)
        finally:
            hook.remove()
        gradients = sum(p.grad.nbytes for p in trained.values() if p.grad is not None)
    optimizer = done.state_bytes - weights - gradients
    # In later steps the optimizer's state is there from the start.
    peak = max(marks[0] + optimizer, ledger.peak - before)
    kept = (ledger.before_backward or 0) - before - weights
    return Rehearsal(weights, gradients, optimizer, kept, peak)


def training_of(step: Step) -> LocalTraining:
    """Return the settings of a client that takes such steps."""
    return LocalTraining(
        epochs=1, learning_rate=1e-5, weight_decay=0.01, max_grad_norm=1.0, step=step
    )


def examples_of(setup: ClientSetup, kind: str, steps: int = 1) -> list[Example]:
    """Return a batch a step of examples at full length, a share of whose tokens have labels."""
    ids = np.zeros(setup.length, dtype=np.int32)
    unlabelled = setup.length - round(setup.length * setup.labelled)
    label = None if kind in LANGUAGE_KINDS else 1 if kind == "classification" else 1.0
    return [Example(ids, unlabelled, label)] * (setup.step.batch_size * steps)


def without_values(ledger: Ledger, config: PretrainedConfig, kind: str) -> nn.Module:
    """Return the config's model, its parameters of shapes alone."""
    model: Any = empty_model(config, kind)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                made = ledger.empty(parameter.shape, parameter.dtype)
                module._parameters[name] = nn.Parameter(made)
    model.tie_weights()
    return model


class ShapeStore:
    """Parts as names, shapes and types: what `PartStore` is to tensors with values."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._parts: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = []

    def put(self, tensors: Mapping[str, torch.Tensor]) -> Part:
        """Keep what the tensors look like."""
        self._parts.append({n: (tuple(t.shape), t.dtype) for n, t in sorted(tensors.items())})
        return Part(str(len(self._parts) - 1), sum(t.nbytes for t in tensors.values()))

    def get(self, part: Part) -> dict[str, torch.Tensor]:
        """Return tensors like them, made anew."""
        held = self._parts[int(part.digest)].items()
        return {name: self._ledger.empty(*look) for name, look in held}
