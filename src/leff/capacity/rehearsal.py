"""Rehearses a client's training step without numbers, and counts the bytes that it takes.

    rehearse(config, "generation", layout, ClientSetup()).peak

The client's real code builds the model and trains it (`prepared`, `local_steps`), on tensors that
have shapes only (`ledger`).  So a change of the code changes the result, and new architectures need
no formula.
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
from leff.tasks.encode import Example
from leff.wire.messages import LocalTraining, Part, Step

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Rehearsal:
    """Bytes of a training step after the first, all counted on the tensors of the real code."""

    weights: int  # with buffers
    gradients: int
    optimizer: int
    activations: int  # kept by the forward pass for the backward pass
    peak: int  # the most bytes at any moment; the parts above do not all exist at once


def rehearse(config: PretrainedConfig, kind: str, layout: Layout, setup: ClientSetup) -> Rehearsal:
    """Return the bytes of a step in a client's model of this layout.

    `setup` gives the step, the length of texts and the share of tokens with labels.  From the
    second part of a batch on, each takes the same memory, so two parts are rehearsed.
    """
    step = setup.step
    if step.accumulation > 2:
        size = 2 * (step.batch_size // step.accumulation)
        step = replace(step, batch_size=size, accumulation=2)
    with Ledger() as ledger:
        model, store = without_values(ledger, config, kind), ShapeStore(ledger)
        writer = JobWriter(store, kind, pad_id=0, shell_bits=layout.shell_bits)
        job = layout_job(writer, model, layout, training_of(step))
        before = ledger.held  # the server's full model, which is alive until the end
        built, trained = prepared(job, store.get, CPU)
        weights = ledger.held - before
        ledger.peak = ledger.held
        marks: list[int] = []

        def mark(*_: Any) -> None:
            marks.append(ledger.peak - before)
            ledger.peak = ledger.held

        hook = register_optimizer_step_pre_hook(mark)
        try:
            examples = examples_of(replace(setup, step=step), kind, labels=config.num_labels or 2)
            done = local_steps(built, list(trained.values()), job, examples, CPU)
        finally:
            hook.remove()
        gradients = sum(p.grad.nbytes for p in trained.values() if p.grad is not None)
    optimizer = done.state_bytes - weights - gradients
    # From the second step on, the optimizer's state exists from the start of a step.
    peak = max(marks[0] + optimizer, ledger.peak - before)
    kept = (ledger.before_backward or 0) - before - weights
    return Rehearsal(weights, gradients, optimizer, kept, peak)


def training_of(step: Step) -> LocalTraining:
    """Return local training settings with this step."""
    return LocalTraining(
        epochs=1, learning_rate=1e-5, weight_decay=0.01, max_grad_norm=1.0, step=step
    )


def examples_of(setup: ClientSetup, kind: str, steps: int = 1, labels: int = 2) -> list[Example]:
    """Return the examples of `steps` full batches, all of the setup's length and labelled share.

    `labels` is the number of a classifier's classes.
    """
    ids = np.zeros(setup.length, dtype=np.int32)
    unlabelled = setup.length - round(setup.length * setup.labelled)
    own = {"classification": 1, "multilabel": (1.0,) * labels, "regression": 1.0}
    return [Example(ids, unlabelled, own.get(kind))] * (setup.step.batch_size * steps)


def without_values(ledger: Ledger, config: PretrainedConfig, kind: str) -> nn.Module:
    """Return the config's model, with parameters that have shapes but no values."""
    model: Any = empty_model(config, kind)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                valueless = ledger.empty(parameter.shape, parameter.dtype)
                module._parameters[name] = nn.Parameter(valueless)
    model.tie_weights()
    return model


class ShapeStore:
    """Keeps parts as names, shapes and types; it replaces `PartStore` in rehearsals."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._parts: list[dict[str, tuple[tuple[int, ...], torch.dtype]]] = []

    def put(self, tensors: Mapping[str, torch.Tensor]) -> Part:
        """Keep the tensors' names, shapes and types."""
        self._parts.append({n: (tuple(t.shape), t.dtype) for n, t in sorted(tensors.items())})
        return Part(str(len(self._parts) - 1), sum(t.nbytes for t in tensors.values()))

    def get(self, part: Part) -> dict[str, torch.Tensor]:
        """Return new tensors without values of the same names, shapes and types."""
        described = self._parts[int(part.digest)].items()
        return {name: self._ledger.empty(shape, dtype) for name, (shape, dtype) in described}
