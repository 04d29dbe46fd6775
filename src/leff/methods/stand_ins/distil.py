"""Distillation (PAPER Sec. 3.3): students that stand in for several layers, trained on the server.

    E = (1-α)·MSE(H_t, H_s) + α·KL(A_t ‖ A_s)

    students = [Student(model, Span(0, 3, 1, trained=True), None, held, mask)]
    distil(model, students, batches, held, mask, settings, decided={})

Each student layer is compared with the teacher layer in `Span.sources`.  Teacher and student get
the same hidden states as input.  The loss is the mean over the student's layers.  The MSE is
divided by the mean square of H_t: hidden states grow over the layers by orders of magnitude, and
without the division the last layer alone would decide the loss.  One teacher pass over a batch
serves all students.  `held` is the trace of the batch that measures errors.  It trains no student
if there are other batches.
"""

import copy
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leff.methods.stand_ins.error import relative_square, span_error
from leff.methods.stand_ins.least_squares import solve_by_least_squares
from leff.methods.stand_ins.stand_in import Batch, Span, attention_mask
from leff.models import Trace, blocks, capture, layer_state, run_blocks

CHECK_EVERY = 10  # steps between two checks of the target
Layers = Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Distillation:
    """How students are trained: AdamW, `steps` in a round, of at most `batch_size` texts each.

    `whole` trains the layers of a span jointly, as the paper does; otherwise each layer trains
    alone.  A student with an error of at most `target_error` is not trained further.  A round's
    training stops after `seconds`.  0 means no target and no limit.
    """

    steps: int
    learning_rate: float
    attention_weight: float  # α
    whole: bool = False
    target_error: float = 0.0
    seconds: float = 0.0
    batch_size: int = 16

    def rate(self, step: int) -> float:
        """Return a step's learning rate: constant for half of the steps, then linear to 0."""
        return self.learning_rate * min(1.0, 2 * (1 - step / self.steps))


class Student:
    """The layers of one unit while they train, and their error on the held-out batch.

    They start from the candidate with the least error: the mean of the layers that each stands
    for, the last of these layers, or the earlier student.  An earlier student at the target stays.
    """

    def __init__(
        self,
        model: nn.Module,
        unit: Span,
        earlier: Layers | None,
        held: Trace,
        mask: torch.Tensor,
        target_error: float = 0.0,
    ) -> None:
        self.unit = unit
        self.layers = [
            copy.deepcopy(blocks(model)[i]).requires_grad_(True).eval() for i in unit.sources
        ]
        self.parameters = [p for layer in self.layers for p in layer.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, weight_decay=0.0)
        starts: list[Layers] = [_means(model, unit), [layer_state(model, i) for i in unit.sources]]
        starts += [earlier] if earlier else []
        errors = [self._try(start, held, mask) for start in starts]
        best = min(range(len(starts)), key=errors.__getitem__)
        if earlier and errors[-1] <= target_error:
            best = len(starts) - 1
        if best < len(starts) - 1:  # the last one tried is in place
            self.error = self._try(starts[best], held, mask)

    def _try(self, start: Layers, held: Trace, mask: torch.Tensor) -> float:
        for layer, tensors in zip(self.layers, start, strict=True):
            layer.load_state_dict(dict(tensors))
        return self.measure(held, mask)

    def measure(self, held: Trace, mask: torch.Tensor) -> float:
        """Return the error on the held-out batch, and set `error`."""
        self.error = span_error(self.unit, self.layers, held, mask)
        return self.error

    def step(self, trace: Trace, mask: torch.Tensor, rate: float, alpha: float) -> None:
        """Take one step.  Only the student's own gradients and weights change."""
        loss = _loss(self.unit, self.layers, trace, mask, alpha)
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    def tensors(self) -> tuple[dict[str, torch.Tensor], ...]:
        """Return the tensors of each layer."""
        return tuple(
            {n: t.detach() for n, t in layer.state_dict().items()} for layer in self.layers
        )


def distil(
    model: nn.Module,
    students: Sequence[Student],
    batches: Sequence[Batch],
    held: Trace,
    mask: torch.Tensor,
    settings: Distillation,
    decided: MutableMapping[str, Any],
) -> list[bool]:
    """Train students in place; return for each whether it took all steps or reached the target.

    Before the first step and after the last, each layer's last linear module is solved for
    (`least_squares`).

    With a limit of seconds, the number of steps is written to `decided["distil_steps"]`.  A number
    that is already there is done regardless of the clock, so a resumed run takes the same steps.
    """
    alpha, target = settings.attention_weight, settings.target_error
    limit = int(decided.get("distil_steps", settings.steps))
    seconds = 0.0 if "distil_steps" in decided else settings.seconds
    started, done = time.perf_counter(), 0
    running = [student for student in students if not student.error <= target]
    if settings.steps > 0:
        solve_by_least_squares(model, running, batches, held, mask)
        running = [student for student in running if not student.error <= target]
    trained, few = running, _of_few_texts(batches, settings.batch_size)
    while running and done < limit and not (seconds and time.perf_counter() - started >= seconds):
        batch = few[done % len(few)]
        trace = capture(model, batch, attention=alpha > 0)
        for student in running:
            student.step(trace, attention_mask(batch), settings.rate(done), alpha)
        done += 1
        if target and done % CHECK_EVERY == 0:
            running = [s for s in running if not s.measure(held, mask) <= target]
    if done and not settings.whole:
        solve_by_least_squares(model, trained, batches, held, mask)
    if settings.seconds:
        decided["distil_steps"] = done
    return [done >= settings.steps or student not in running for student in students]


def _of_few_texts(batches: Sequence[Batch], size: int) -> list[Batch]:
    """Return the same texts in batches of at most `size`."""
    return [
        {name: tensor[start : start + size] for name, tensor in batch.items()}
        for batch in batches
        for start in range(0, len(batch["input_ids"]), size)
    ]


def _means(model: nn.Module, unit: Span) -> Layers:
    """Return, for each layer of the student, the mean of the teacher layers that it replaces."""
    means: list[dict[str, torch.Tensor]] = []
    for piece in unit.units():
        states = [layer_state(model, layer) for layer in range(piece.start, piece.stop)]
        means.append({n: torch.stack([s[n] for s in states]).mean(0) for n in states[0]})
    return means


def _loss(
    unit: Span, student: Sequence[nn.Module], trace: Trace, mask: torch.Tensor, alpha: float
) -> torch.Tensor:
    hidden, loss = trace.hidden[unit.start], torch.zeros((), device=mask.device)
    for position, (layer, source) in enumerate(zip(student, unit.sources, strict=True)):
        opens = unit.start == 0 and position == 0
        hidden, maps = run_blocks([layer], hidden, trace, [source], alpha > 0, first=opens)
        loss = loss + (1 - alpha) * relative_square(hidden, trace.hidden[source + 1], mask)
        if alpha > 0:
            loss = loss + alpha * attention_cross_entropy(trace.maps[source], maps[0], mask)
    return loss / len(student)


def attention_cross_entropy(
    teacher: torch.Tensor, student: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean of -Σ A_t log A_s over heads and unpadded query positions, a scalar.

    teacher, student: (B, H, T, T), rows sum to one; mask (B, T).  The result is KL(A_t ‖ A_s) plus
    the teacher's entropy, which has no gradient.  Entries without weight in the teacher (a causal
    map's upper half) add neither loss nor gradient.
    """
    logs = (student + torch.finfo(student.dtype).tiny).log()
    rows = -(teacher * logs).sum(-1)  # (B, H, T)
    kept = mask.bool()[:, None].expand_as(rows)
    return rows[kept].mean()
