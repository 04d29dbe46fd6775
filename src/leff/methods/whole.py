"""Shared by the methods whose clients hold the whole model, frozen, and train little beside it.

    base = WholeModel(writer, bits=32)
    base.put(model)                                 # once, the run's initial model
    jobs = base.jobs(context, {client: Tuned(shapes, part)})

A client gets the frozen model once, because its parts are the same in every round.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from leff.methods.jobs import Frame, JobWriter, Store
from leff.methods.method import RoundContext
from leff.methods.setup import shell_bits
from leff.methods.sums import Means
from leff.models import blocks, full_tail_names
from leff.models.quantised import quantised
from leff.wire.messages import Job, Segment, Tuned


class WholeModel:
    """The run's initial model, with its layers' linear weights in 32, 16, 8 or 4 bits."""

    def __init__(self, writer: JobWriter, bits: int = 32) -> None:
        self._writer, self._bits = replace(writer, shell_bits=shell_bits(bits)), bits
        self._frame: Frame | None = None
        self._segments: tuple[Segment, ...] = ()

    def put(self, model: Any) -> None:
        """Store the model's parts."""
        self._frame = self._writer.frame(model)
        parts = tuple(self.store.put(quantised(layer, self._bits)) for layer in blocks(model))
        self._segments = (Segment(tuple(range(len(parts))), parts, bits=self._bits),)

    @property
    def store(self) -> Store:
        return self._writer.store

    def jobs(self, context: RoundContext, tuned: Mapping[int, Tuned]) -> tuple[Job, ...]:
        """Return a job for every client in `tuned`; it trains the tensors of its `Tuned`."""
        assert self._frame is not None, "put() comes first"
        segments = dict.fromkeys(tuned, self._segments)
        return self._writer.jobs(self._frame, context, segments, tuned)


def own_parameters(model: Any, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Return the model's parameters of these names; by default the classifier's."""
    parameters = dict(model.named_parameters())
    return {n: parameters[n].data for n in (full_tail_names(model) if names is None else names)}


def shapes_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@torch.no_grad()
def put_parameters(model: Any, means: Means) -> None:
    """Write the means into the model's parameters; those of other tensors are skipped."""
    parameters = dict(model.named_parameters())
    for name in means.shapes.keys() & parameters.keys():
        parameters[name].copy_(means.mean(name).tensor)
