"""What a client's block size and context are chosen from, and their errors.

    sizes = model_sizes(model, "classification")
    found = candidates(sizes)
    errors = measure(model, bank, found, proxy_batches, decided={})
    found[1].layers, found[1].setting     # 1, Setting(name='quantise', rate=1.0, bits=8, suffix='')

The error is the floor Δ² of PAPER Sec. 4 seen from outside: how far a client's last hidden state
is from the full model's.  The paper leaves the choice of r and L_i to the user.
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

TOLERANCE = 0.03  # errors that differ by less count as equal: 8 bits then count as exact
BITS = (32, 8, 4)  # 16 would never be chosen: 8 take less, and count as exact
DEEP = 8  # layers from which a quarter of them is a model of its own


@dataclass(frozen=True)
class Setting:
    """The options of a run that make a context, under their own names (`ContextConfig`)."""

    name: str
    rate: float = 1.0
    bits: int = 32
    suffix: str = ""

    @property
    def context(self) -> Context:
        return make_context(self.name, rate=self.rate, bits=self.bits, suffix=self.suffix)

    @property
    def keeps_all(self) -> bool:
        """Whether every layer is there."""
        return self.name == "quantise" and self.suffix in ("", "quantise")

    def options(self) -> dict[str, Any]:
        """Return the run options that differ from plain layers, by their full names."""
        found: dict[str, Any] = {"context.name": self.name, "context.bits": self.bits}
        found |= {"context.rate": self.rate} if self.rate < 1 else {}
        return found | ({"context.suffix": self.suffix} if self.suffix else {})

    def __str__(self) -> str:
        way = f"{self.name} + {self.suffix}" if self.suffix else self.name
        rate = f" {self.rate:g}" if self.rate < 1 else ""
        return f"{way}{rate}, {self.bits} bits"


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
"""What is taken for the error where there are no weights to measure it on: a prior, no more.

Geometric means of MiniLM-L6's (SST-2, proxy WNLI) and the built-in model's errors with one layer
trained, students after 100 steps at 3e-3, one seed (`benchmarks.frontier`).  They differ by up to
ten times: 8 bits .029 and .003, 4 bits .22 and .041, distil 0.5 .40 and .18, drop 0.5 .85 and .93.
distil 0.25 is the built-in model's, times what distil 0.5 is above that.  8 bits
count as exact (`TOLERANCE`), as they do on both models where they are measured.
"""


@dataclass(frozen=True)
class Candidate:
    """A block size in a context, its step checkpointed or not, and what it takes (`Footprint`)."""

    layers: int
    setting: Setting
    state_bytes: int
    step_flops: int
    checkpointing: bool = False

    def setup(self, asked: ClientSetup) -> ClientSetup:
        """Return what is asked for, with this block, context and checkpointing."""
        step = replace(asked.step, checkpointing=self.checkpointing)
        return replace(asked, layers=self.layers, context=self.setting.context, step=step)


def settings(layers: int) -> list[Setting]:
    """Return the contexts that are tried for a model of so many layers, the plainest first."""
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

    `asked` has the embedding bits and a step's batch, which may be checkpointed.  Block sizes are 1
    to L if none are given; with L there is nothing to replace, and one candidate.  `contexts` are
    all `settings` unless given.
    """
    total, asked = len(sizes.layers), asked or ClientSetup()
    again, different = asked.step.checkpointing, dict[tuple[Any, ...], Candidate]()
    for layers in block_sizes or range(1, total + 1):
        for setting in contexts or settings(total):
            setup = replace(asked, layers=layers, context=setting.context)
            worst = worst_footprint(
                [footprint(sizes, o, setup) for o in block_layouts(setup, total)]
            )
            made = Candidate(layers, setting, worst.state_bytes, worst.step_flops, again)
            different.setdefault((layers, *_units(setting, layers, total)), made)
    return list(different.values())


def with_checkpointing(
    sizes: Sizes, asked: ClientSetup, contexts: Sequence[Setting] = ()
) -> list[Candidate]:
    """Return the candidates, and after them the same ones checkpointed."""
    again = replace(asked, step=replace(asked.step, checkpointing=True))
    each = [asked] if asked.step.checkpointing else [asked, again]
    return [found for setup in each for found in candidates(sizes, setup, contexts=contexts)]


def _units(setting: Setting, layers: int, total: int) -> list[tuple[Span, ...]]:
    """Return what each place's stand-ins are made of; where it is the same, so is the client."""
    return [
        tuple(unit for span in setting.context.spans(block, total) for unit in span.units())
        for block in places(layers, total)
    ]


def measure(
    model: nn.Module,
    bank: Bank,
    found: Sequence[Candidate],
    batches: Sequence[Batch],
    decided: MutableMapping[str, Any],
) -> dict[Candidate, float]:
    """Return each candidate's error: the client's last hidden state, the mean over all places.

    `block_errors` on the first of `batches`.  All stand-ins come from one `bank`, so units are
    shared, and a student is trained once whatever bits it is then sent in.
    """
    total = len(blocks(model))
    around = {c: places(c.layers, total) for c in found}
    spans = {s for c in found for block in around[c] for s in c.setting.context.spans(block, total)}
    made = bank.make(model, sorted(spans), batches, decided) if spans else {}
    errors: dict[Candidate, float] = {}
    for candidate in found:
        context = candidate.setting.context
        each = block_errors(model, context, made, around[candidate], batches[0]).values()
        errors[candidate] = sum(each) / len(each)
    return errors


def assumed_errors(found: Sequence[Candidate]) -> dict[Candidate, float]:
    """Return `ASSUMED_ERRORS` for plans without weights: bits first, then students, then dropping.

    On both models and all block sizes that were measured the order was this, but for 4 bits and
    a distilled suffix in 8 bits, which were close on MiniLM (.170 and .168 with three layers).
    """
    return {candidate: ASSUMED_ERRORS[candidate.setting] for candidate in found}
