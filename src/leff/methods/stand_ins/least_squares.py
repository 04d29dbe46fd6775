"""Students by least squares: each layer's last linear module is solved for, not trained.

    solve_by_least_squares(model, students, batches, held, mask)

What the last linear module of a layer gives is added to what came before it.  So the weight with
the least error has a closed form.  With z what goes into the module, o what comes out, and o* what
would give the teacher's hidden state,

    (Zᵀ Z + λ I) ΔWᵀ = Zᵀ (O* - O)      λ = RIDGE times the mean of Zᵀ Z's diagonal

over the tokens of some proxy data.  A student's layers are solved for one after another, each
behind those before it.  In a layer that ends in a LayerNorm (BERT), o* is what gives the
teacher's state at the mean and the variance that the student's token has.  The paper leaves open
how students begin and how they are trained; this is ours.  Legend: B batch, T tokens, D width, K
inputs of the module.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.methods.stand_ins.error import relative_square
from leff.methods.stand_ins.stand_in import Batch, Span, attention_mask
from leff.models import Trace, blocks, capture, run_blocks
from leff.models.detect import linears
from leff.models.hardware import wide

TOKENS = 4  # of the proxy data that the sums are over, for each input of the widest module
RIDGE = 1e-3
FLAT = 1e-3  # a LayerNorm's scale, to its mean, below which an output says nothing of its input


class Student(Protocol):
    """What is asked of `distil.Student`."""

    unit: Span

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    def measure(self, held: Trace, mask: torch.Tensor) -> float: ...


class _Seen(NamedTuple):
    """A batch: what the teacher makes of it, and its mask (B, T)."""

    trace: Trace
    mask: torch.Tensor


@torch.no_grad()
def solve_by_least_squares(
    model: nn.Module,
    students: Sequence[Student],
    batches: Sequence[Batch],
    held: Trace,
    mask: torch.Tensor,
) -> None:
    """Solve for each layer of each student, where that lowers its error.

    The error is that of the layer's own output on the batch of `held`, with its `mask`.  A layer
    whose last linear module is not followed by a sum or a LayerNorm alone is left as it is.
    """
    if not students:
        return
    seen = _enough(model, batches)
    for student in students:
        _solve(student, seen, _Seen(held, mask))
        student.measure(held, mask)


def _enough(model: nn.Module, batches: Sequence[Batch]) -> list[_Seen]:
    """Return the first batches, until there are `TOKENS` for each input of the widest module."""
    modules = linears(blocks(model)[0]).values()
    wanted = TOKENS * max((max(module.weight.shape) for module in modules), default=0)
    seen: list[_Seen] = []
    for batch in batches:
        if seen and sum(int(each.mask.sum()) for each in seen) >= wanted:
            break
        seen.append(_Seen(capture(model, batch), attention_mask(batch)))
    return seen


def _solve(student: Student, seen: Sequence[_Seen], held: _Seen) -> None:
    start, sources = student.unit.start, student.unit.sources
    inputs = [each.trace.hidden[start] for each in seen]
    tried = held.trace.hidden[start]
    for place, (layer, source) in enumerate(zip(student.layers, sources, strict=True)):
        one = _Place(layer, source, opens=start == 0 and place == 0)
        sums = _Sums()
        for hidden, each in zip(inputs, seen, strict=True):
            with _Watch(layer) as watch:
                found = one.run(hidden, each)
            sums.add(watch, found, each.trace.hidden[source + 1], each.mask.bool())
        before = one.run(tried, held)
        sums.apply(1)
        after = one.run(tried, held)
        better = one.error(after, held) < one.error(before, held)
        if not better:
            sums.apply(-1)
        tried = after if better else before
        if place + 1 < len(sources):
            inputs = [one.run(hidden, each) for hidden, each in zip(inputs, seen, strict=True)]


class _Place(NamedTuple):
    """A student's layer, and the teacher's layer whose output it should give."""

    layer: nn.Module
    source: int
    opens: bool  # whether it is the model's first layer

    def run(self, hidden: torch.Tensor, seen: _Seen) -> torch.Tensor:
        return run_blocks([self.layer], hidden, seen.trace, [self.source], first=self.opens)[0]

    def error(self, output: torch.Tensor, held: _Seen) -> float:
        return float(relative_square(output, held.trace.hidden[self.source + 1], held.mask))


class _Sums:
    """Zᵀ Z, (K, K), and Zᵀ (O* - O), (K, D), of a layer's last linear module, in float64.

    A module with a bias has one input more, which is 1.
    """

    def __init__(self) -> None:
        self._module: Any = None
        self._inner: Any = None
        self._outer: Any = None
        self._found: Any = None

    def add(
        self, watch: "_Watch", found: torch.Tensor, teacher: torch.Tensor, real: torch.Tensor
    ) -> None:
        """Add the tokens of a batch; `real` (B, T) says which are no padding.

        `found` is what the watched layer gave, and `teacher` what it should have.
        """
        wanted = watch.wanted(found, teacher)
        if wanted is None:
            return
        module, inputs, output = watch.linear
        self._module = module
        z, change = inputs[real].float(), (wanted - output)[real].float()
        if module.bias is not None:
            z = torch.cat([z, z.new_ones(len(z), 1)], dim=1)
        inner, outer = wide(z.T @ z), wide(z.T @ change)
        self._inner = inner if self._inner is None else self._inner.add_(inner)
        self._outer = outer if self._outer is None else self._outer.add_(outer)

    def apply(self, sign: int) -> None:
        """Add the solution to the module's weight and bias, or take it away again (-1)."""
        module = self._module
        if module is None:
            return
        if self._found is None:
            ridge = RIDGE * self._inner.diagonal().mean().clamp(min=1e-30)
            self._inner.diagonal().add_(ridge)
            solution = torch.linalg.solve(self._inner, self._outer)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # untyped
            self._found = cast("torch.Tensor", solution).to(module.weight)
        weight = self._found if module.bias is None else self._found[:-1]
        module.weight += sign * (weight if isinstance(module, Conv1D) else weight.T)
        if module.bias is not None:
            module.bias += sign * self._found[-1]


class _Watch(ExitStack):
    """Notes the last linear module that a layer runs, and a LayerNorm after it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear: Any = None  # the module, its input and its output
        self._norms: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        for module in linears(layer).values():
            self.callback(module.register_forward_hook(self._linear).remove)
        for module in layer.modules():
            if "norm" in type(module).__name__.lower():
                self.callback(module.register_forward_hook(self._norm).remove)

    def _linear(self, module: nn.Module, given: Any, output: torch.Tensor) -> None:
        self.linear, self._norms = (module, given[0], output), []

    def _norm(self, module: nn.Module, given: Any, output: torch.Tensor) -> None:
        self._norms.append((module, given[0], output))

    def wanted(self, found: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor | None:
        """Return what the linear module would have to give, (B, T, D); None if that is unknown.

        `found` is the layer's output, and `teacher` what it should be.
        """
        if self.linear is None or self.linear[2].shape != found.shape:
            return None
        output = self.linear[2]
        if not self._norms:
            return output + (teacher - found)
        norm, y, normed = self._norms[-1]
        if len(self._norms) > 1 or type(norm) is not nn.LayerNorm or not torch.equal(normed, found):
            return None
        mean = y.mean(-1, keepdim=True)
        spread = (y.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        told = norm.weight.abs() > FLAT * norm.weight.abs().mean()
        scale = torch.where(told, norm.weight, torch.ones_like(norm.weight))
        return output + torch.where(told, (teacher - norm.bias) / scale * spread + mean - y, 0.0)
