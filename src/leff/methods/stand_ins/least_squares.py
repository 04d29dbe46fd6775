"""Students by least squares: each layer's last linear module is solved for, not trained.

    solve_by_least_squares(model, students, batches, held, mask)

What the last linear module of a layer gives is added to what came before it.  So the weight with
the least error has a closed form.  With z what goes into the module, o what comes out, and o* what
would give the teacher's hidden state,

    (Zᵀ Z + λ I) ΔWᵀ = Zᵀ (O* - O)      λ = RIDGE times the mean of Zᵀ Z's diagonal

over the tokens of the proxy data.  In a layer that ends in a LayerNorm (BERT), o* is what gives the
teacher's state at the mean and the variance that the student's token has.  The paper leaves open
how students begin and how they are trained; this is ours.  Legend: B batch, T tokens, D width, K
inputs of the module.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from leff.methods.stand_ins.stand_in import Batch, Span, attention_mask
from leff.models import Trace, capture, run_blocks
from leff.models.detect import linears

BATCHES = 16  # of the proxy data that the sums are over, at most
RIDGE = 1e-3
MOST_BYTES = (
    2**31
)  # of the sums that are in memory at a time; there is a teacher pass for each part
FLAT = 1e-3  # a LayerNorm's scale, to its mean, below which an output says nothing of its input


class Student(Protocol):
    """What is asked of `distil.Student`."""

    unit: Span

    @property
    def layers(self) -> Sequence[nn.Module]: ...

    def measure(self, held: Trace, mask: torch.Tensor) -> float: ...


@torch.no_grad()
def solve_by_least_squares(
    model: nn.Module,
    students: Sequence[Student],
    batches: Sequence[Batch],
    held: Trace,
    mask: torch.Tensor,
) -> None:
    """Solve for each layer of each student, the first layers first, where that lowers the error.

    The error is measured on the batch of `held`, with its `mask`.  A layer whose last linear module
    is not followed by a sum or a LayerNorm alone is left as it is.
    """
    for place in range(max((len(each.layers) for each in students), default=0)):
        able = [each for each in students if place < len(each.layers)]
        for part in _parts([(each, _Sums(each.unit, each.layers, place)) for each in able]):
            for batch in batches[:BATCHES]:
                trace = capture(model, batch)
                for _, sums in part:
                    sums.add(trace, attention_mask(batch).bool())
            for student, sums in part:
                before = student.measure(held, mask)
                sums.apply(1)
                if not student.measure(held, mask) < before:
                    sums.apply(-1)
                    student.measure(held, mask)


def _parts(pairs: Sequence[tuple[Any, "_Sums"]]) -> Iterator[list[tuple[Any, "_Sums"]]]:
    """Yield the pairs in parts of at most `MOST_BYTES`, or of one."""
    part: list[tuple[Any, _Sums]] = []
    for pair in pairs:
        if part and sum(sums.nbytes for _, sums in [*part, pair]) > MOST_BYTES:
            yield part
            part = []
        part.append(pair)
    if part:
        yield part


class _Sums:
    """Zᵀ Z, (K, K), and Zᵀ (O* - O), (K, D), of one layer's last linear module, in float64.

    A module with a bias has one input more, which is 1.
    """

    def __init__(self, unit: Span, layers: Sequence[nn.Module], place: int) -> None:
        self._unit, self._before, self._layer = unit, layers[:place], layers[place]
        self._place = place
        self._module: Any = None
        self._inner: Any = None
        self._outer: Any = None
        self._found: Any = None
        widths = (max(module.weight.shape) for module in linears(self._layer).values())
        self.nbytes = 8 * (max(widths, default=0) + 1) ** 2

    def add(self, trace: Trace, real: torch.Tensor) -> None:
        """Add the tokens of a batch; `real` (B, T) says which are no padding."""
        unit, first = self._unit, self._unit.start == 0
        start, sources = trace.hidden[unit.start], unit.sources
        hidden, _ = run_blocks(self._before, start, trace, sources[: self._place], first=first)
        source = sources[self._place]
        opens = first and self._place == 0
        with _Watch(self._layer) as watch:
            found, _ = run_blocks([self._layer], hidden, trace, [source], first=opens)
        wanted = watch.wanted(found, trace.hidden[source + 1])
        if wanted is None:
            return
        module, inputs, output = watch.linear
        self._module = module
        z, change = inputs[real].float(), (wanted - output)[real].float()
        if module.bias is not None:
            z = torch.cat([z, z.new_ones(len(z), 1)], dim=1)
        inner, outer = (z.T @ z).double(), (z.T @ change).double()
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
            self._found = cast("torch.Tensor", solution).to(module.weight.dtype)
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
