"""The candidates for a client's block size and context, and their errors.

    sizes = model_sizes(model, "classification")
    tried = candidates(sizes)
    errors = measure(model, bank, tried, proxy_batches, decided={})
    tried[1].layers, tried[1].setting     # 1, Setting(name='quantise', rate=1.0, bits=8, suffix='')

The error is the distance of a client's last hidden state from the full model's.  It stands for the
floor Δ² of PAPER Sec. 4.  The paper leaves the choice of r and L_i to the user.
"""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leff.capacity.footprint import footprint, worst_footprint
from leff.capacity.sizes import Sizes
from leff.methods.setup import ClientSetup, block_layouts, places
from leff.methods.stand_ins import make_context
from leff.methods.stand_ins.bank import Bank
from leff.methods.stand_ins.error import block_errors
from leff.methods.stand_ins.stand_in import Batch, Context, Span
from leff.models import blocks

TOLERANCE = 0.03  # errors that differ by less count as equal, so 8 bits count as exact
BITS = (32, 8, 4)  # not 16: 8 bits take less memory and count as exact too
DEEP = 8  # from so many layers on, students of a quarter of the layers are tried too


@dataclass(frozen=True)
class Setting:
    """The run options that make a context, under the names that they have in `ContextConfig`."""

    name: str
    rate: float = 1.0
    bits: int = 32
    suffix: str = ""

    @property
    def context(self) -> Context:
        return make_context(self.name, rate=self.rate, bits=self.bits, suffix=self.suffix)

    @property
    def keeps_all(self) -> bool:
        """Whether the client's model has every layer of the full model."""
        return self.name == "quantise" and self.suffix in ("", "quantise")

    def options(self) -> dict[str, Any]:
        """Return the run options that differ from plain layers, by their full names."""
        options: dict[str, Any] = {"context.name": self.name, "context.bits": self.bits}
        options |= {"context.rate": self.rate} if self.rate < 1 else {}
        return options | ({"context.suffix": self.suffix} if self.suffix else {})

    def __str__(self) -> str:
        name = f"{self.name} + {self.suffix}" if self.suffix else self.name
        rate = f" {self.rate:g}" if self.rate < 1 else ""
        return f"{name}{rate}, {self.bits} bits"


ASSUMED_ERRORS = {
    Setting("quantise"): 0.0,
    Setting("quantise", bits=8): 0.009,
    Setting("quantise", bits=4): 0.095,
    Setting("quantise", 0.5, 8, "distil"): 0.17,
    Setting("quantise", 0.5, 4, "distil"): 0.20,
    Setting("distil", 0.5, 32): 0.27,
    Setting("distil", 0.5, 8): 0.27,
    Setting("distil", 0.5, 4): 0.28,
    Setting("distil", 0.25, 32): 0.48,
    Setting("distil", 0.25, 8): 0.48,
    Setting("distil", 0.25, 4): 0.49,
    Setting("drop", 0.5, 32): 0.89,
    Setting("drop", 0.5, 8): 0.89,
    Setting("drop", 0.5, 4): 0.89,
}
"""Errors that plans assume where there are no weights to measure.  They are a prior, no more.

Each is the geometric mean of two models' errors: MiniLM-L6 (SST-2, proxy WNLI) and the built-in
model.  One layer was trained, students took 100 steps at 3e-3, one seed (`benchmarks.frontier`).
The two differ by up to ten times: 8 bits .029 and .003, 4 bits .22 and .041, distil 0.5 .40 and
.18, drop 0.5 .85 and .93.  distil 0.25 is the built-in model's error, raised as much as distil 0.5
is raised above the built-in model's.  8 bits count as exact (`TOLERANCE`) on both models.
"""


@dataclass(frozen=True)
class Candidate:
    """A block size in a context, checkpointed or not, with its state bytes and operations."""

    layers: int
    setting: Setting
    state_bytes: int
    step_flops: int
    checkpointing: bool = False

    def setup(self, asked: ClientSetup) -> ClientSetup:
        """Return the setup `asked`, with this candidate's block, context and checkpointing."""
        step = replace(asked.step, checkpointing=self.checkpointing)
        return replace(asked, layers=self.layers, context=self.setting.context, step=step)


def settings(layers: int) -> list[Setting]:
    """Return the contexts to try for a model of `layers` layers, the plainest first."""
    rates = (0.5, 0.25) if layers >= DEEP else (0.5,)
    return [
        *(Setting("quantise", bits=bits) for bits in BITS),
        *(Setting("drop", 0.5, bits) for bits in BITS),
        *(Setting("distil", rate, bits) for rate in rates for bits in BITS),
        *(Setting("quantise", 0.5, bits, "distil") for bits in BITS[1:]),
    ]


def candidates(
    sizes: Sizes,
    asked: ClientSetup | None = None,
    block_sizes: Sequence[int] = (),
    contexts: Sequence[Setting] = (),
) -> list[Candidate]:
    """Return every block size in every context, each different client model once.

    `asked` gives the embedding bits and the step.  Block sizes are 1 to L and contexts are all
    `settings`, unless given.  A block of all L layers has no context, so it is one candidate.
    """
    total, asked = len(sizes.layers), asked or ClientSetup()
    again, different = asked.step.checkpointing, dict[tuple[Any, ...], Candidate]()
    for layers in block_sizes or range(1, total + 1):
        for setting in contexts or settings(total):
            setup = replace(asked, layers=layers, context=setting.context)
            worst = worst_footprint(
                [footprint(sizes, o, setup) for o in block_layouts(setup, total)]
            )
            candidate = Candidate(layers, setting, worst.state_bytes, worst.step_flops, again)
            different.setdefault((layers, *_units(setting, layers, total)), candidate)
    return list(different.values())


def with_checkpointing(
    sizes: Sizes, asked: ClientSetup, contexts: Sequence[Setting] = ()
) -> list[Candidate]:
    """Return the candidates, and after them the same ones checkpointed."""
    again = replace(asked, step=replace(asked.step, checkpointing=True))
    setups = [asked] if asked.step.checkpointing else [asked, again]
    return [each for setup in setups for each in candidates(sizes, setup, contexts=contexts)]


def _units(setting: Setting, layers: int, total: int) -> list[tuple[Span, ...]]:
    """Return each place's units.  Two settings with the same units give the same client model."""
    return [
        tuple(unit for span in setting.context.spans(block, total) for unit in span.units())
        for block in places(layers, total)
    ]


def measure(
    model: nn.Module,
    bank: Bank,
    tried: Sequence[Candidate],
    batches: Sequence[Batch],
    decided: MutableMapping[str, Any],
) -> dict[Candidate, float]:
    """Return each candidate's error: the mean of `block_errors` over all places of its block.

    The errors are measured on the first of `batches`.  All stand-ins come from one `bank`, so
    candidates share units: a student is trained once for all numbers of bits.
    """
    total = len(blocks(model))
    drawn = {c: places(c.layers, total) for c in tried}
    spans = {s for c in tried for block in drawn[c] for s in c.setting.context.spans(block, total)}
    stand_ins = bank.make(model, sorted(spans), batches, decided) if spans else {}
    errors: dict[Candidate, float] = {}
    for candidate, blocks_drawn in drawn.items():
        context = candidate.setting.context
        each = block_errors(model, context, stand_ins, blocks_drawn, batches[0]).values()
        errors[candidate] = sum(each) / len(each)
    return errors


def assumed_errors(tried: Sequence[Candidate]) -> dict[Candidate, float]:
    """Return `ASSUMED_ERRORS` of candidates: fewer bits err least, then students, then dropping.

    Both models gave this order at all measured block sizes, with one exception: on MiniLM, 4 bits
    and a distilled suffix in 8 bits were close (.170 and .168 with three layers).
    """
    return {candidate: ASSUMED_ERRORS[candidate.setting] for candidate in tried}
