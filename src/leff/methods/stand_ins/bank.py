"""The bank of a run's stand-ins: it makes them when a round needs them, and keeps students.

    bank = Bank(Distillation(steps=40, learning_rate=1e-3, attention_weight=0.1))
    stand_ins = bank.make(model, context.spans(block, layers), proxy_batches, decided={})

Spans consist of units (`Span.units`), and spans share units.  An untrained unit is a layer of the
model.  A trained unit has a student.  The next round trains the student further, or takes it
unchanged if the layers that it stands for are the same to the bit.
"""

import hashlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from leff.methods.stand_ins.distil import Distillation, Layers, Student, distil
from leff.methods.stand_ins.error import span_error
from leff.methods.stand_ins.stand_in import Batch, Span, StandIn, attention_mask, source_of
from leff.models import Trace, blocks, capture, eager_attention, layer_state
from leff.models.quantised import quantised, rebuilt
from leff.models.scratch import Scratch
from leff.wire.tensors import pack

KEPT_ROUNDS = 4  # a student that no round has used for so many rounds is dropped


@dataclass(frozen=True)
class Kept:
    """A student between rounds."""

    tensors: Layers
    teacher: bytes  # SHA-256 of the layers that it stands for
    finished: bool  # whether it took all steps or reached the target
    idle: int = 0  # rounds since it was used


class Bank:
    """Makes stand-ins, and keeps students over rounds."""

    def __init__(self, distillation: Distillation) -> None:
        self._distillation = distillation
        self._kept: dict[Span, Kept] = {}

    def make(
        self,
        model: nn.Module,
        spans: Sequence[Span],
        batches: Sequence[Batch],
        decided: MutableMapping[str, Any],
    ) -> dict[Span, StandIn]:
        """Return a stand-in for every span; the model's weights are not changed.

        `batches` are proxy data; the first batch measures the errors.  Decisions by the clock are
        written to `decided`; a decision that is already there is followed.
        """
        model.eval()
        pieces = {span: span.units(self._distillation.whole) for span in spans}
        units = {unit for own in pieces.values() for unit in own}
        trained = sorted({_student_of(unit) for unit in units if unit.trained})
        uses_maps = trained and self._distillation.attention_weight > 0
        with eager_attention(model) if uses_maps else nullcontext():
            held, mask = capture(model, batches[0]), attention_mask(batches[0])
            self._train(model, trained, batches, held, mask, decided)
            sent = self._sent(model, units)
            return {
                span: _measured(model, span, [t for unit in own for t in sent[unit]], held, mask)
                for span, own in pieces.items()
            }

    def _train(
        self,
        model: nn.Module,
        units: Sequence[Span],
        batches: Sequence[Batch],
        held: Trace,
        mask: torch.Tensor,
        decided: MutableMapping[str, Any],
    ) -> None:
        settings, teachers = self._distillation, _digests(model, units)
        aged = {unit: replace(kept, idle=kept.idle + 1) for unit, kept in self._kept.items()}
        ready = {
            unit: replace(aged[unit], idle=0)
            for unit in units
            if unit in aged and aged[unit].finished and aged[unit].teacher == teachers[unit]
        }
        earlier = {unit: kept.tensors for unit, kept in aged.items()}
        students = [
            Student(model, unit, earlier.get(unit), held, mask, settings.target_error)
            for unit in units
            if unit not in ready
        ]
        if students:
            others = batches[1:] or batches
            finished = distil(model, students, others, held, mask, settings, decided)
            for student, done in zip(students, finished, strict=True):
                ready[student.unit] = Kept(student.tensors(), teachers[student.unit], done)
        self._kept = {u: k for u, k in (aged | ready).items() if k.idle < KEPT_ROUNDS}

    def _sent(self, model: nn.Module, units: Iterable[Span]) -> dict[Span, Layers]:
        """Return the tensors that are sent for each unit; each layer is quantised once."""
        plain = {
            source: (quantised(blocks(model)[source.start], source.bits),)
            for source in {source_of(unit) for unit in units if not unit.trained}
        }
        return {
            unit: self._student(model, unit) if unit.trained else plain[source_of(unit)]
            for unit in units
        }

    def _student(self, model: nn.Module, unit: Span) -> Layers:
        kept = self._kept[_student_of(unit)].tensors
        layers = [blocks(model)[i] for i in unit.sources]
        if unit.bits == 32:
            return kept
        return [quantised(rebuilt(a, b), unit.bits) for a, b in zip(layers, kept, strict=True)]

    def state(self) -> dict[str, torch.Tensor]:
        """Return all students and their facts as tensors; a resumed run goes on to the bit."""
        state: dict[str, torch.Tensor] = {}
        for unit, kept in self._kept.items():
            key = f"{unit.start}/{unit.stop}/{unit.layers}"
            about = kept.teacher + bytes([kept.finished, kept.idle])
            state[f"{key}/about"] = torch.frombuffer(bytearray(about), dtype=torch.uint8)
            for position, tensors in enumerate(kept.tensors):
                state |= {f"{key}/{position}/{name}": t for name, t in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        layers: dict[Span, dict[int, dict[str, torch.Tensor]]] = {}
        about: dict[Span, bytes] = {}
        for key, tensor in state.items():
            *numbers, last = key.split("/", 3)
            start, stop, count = map(int, numbers)
            unit = Span(start, stop, count, trained=True)
            if last == "about":
                about[unit] = tensor.numpy().tobytes()
                continue
            position, name = last.split("/", 1)
            layers.setdefault(unit, {}).setdefault(int(position), {})[name] = tensor
        self._kept = {
            unit: Kept(
                tuple(layers[unit][i] for i in range(unit.layers)), a[:-2], bool(a[-2]), a[-1]
            )
            for unit, a in about.items()
        }


def _student_of(unit: Span) -> Span:
    """Return the key of a unit's student.  It has no bits: students train before quantisation."""
    return replace(unit, bits=32)


def _measured(
    model: nn.Module, span: Span, tensors: Layers, held: Trace, mask: torch.Tensor
) -> StandIn:
    scratch, pairs = Scratch(), zip(span.sources, tensors, strict=True)
    layers = [rebuilt(blocks(model)[source], own, scratch) for source, own in pairs]
    return StandIn(span, tuple(tensors), span_error(span, layers, held, mask))


def _digests(model: nn.Module, units: Iterable[Span]) -> dict[Span, bytes]:
    """Return the SHA-256 of the layers that each unit stands for."""
    covered = sorted({layer for unit in units for layer in range(unit.start, unit.stop)})
    single = {i: hashlib.sha256(pack(layer_state(model, i))).digest() for i in covered}
    return {
        unit: hashlib.sha256(b"".join(single[i] for i in range(unit.start, unit.stop))).digest()
        for unit in units
    }
